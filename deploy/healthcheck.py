"""Whether the service in this container lives: `healthcheck.py facade` asks /healthz, `healthcheck.py core` over gRPC.

For container engines without probes of their own; Kubernetes asks the ports itself. Ends with 0 or 1, and says nothing.
"""

import http.client
import os
import sys

TIMEOUT_S = 3.0


def facade_lives() -> bool:
    """Asks the facade on loopback; a drained one lives as well."""
    port = int(os.environ.get("QUILLGATE_FACADE_PORT", "8080"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def core_lives() -> bool:
    """Asks the core's health service; whatever it says, one that answers lives."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest
    from grpc_health.v1.health_pb2_grpc import HealthStub

    address = os.environ.get("QUILLGATE_GRPC_ADDRESS", "127.0.0.1:8788").replace("0.0.0.0:", "127.0.0.1:")
    with grpc.insecure_channel(address) as channel:
        try:
            HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
    return True


if __name__ == "__main__":
    asked = {"facade": facade_lives, "core": core_lives}[sys.argv[1]]
    sys.exit(0 if asked() else 1)
