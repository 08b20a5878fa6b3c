// Makes a server listen on loopback only, for a gateway that cannot be told to: `node --require ./loopback.cjs ...`.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  const options = typeof first === "object" && first !== null ? first : { port: first };
  return listen.call(this, { ...options, host: "127.0.0.1" }, ...rest.filter((each) => typeof each === "function"));
};
