"""How fast a machine is at what every figure needs besides the gateway."""

from load import load, stream_arguments
from machine import python_ms
from service import Service

CALIBRATION_S = 1.0


def calibrate(mock: Service) -> dict[str, float]:
    """Returns what load generator and mock provider do without any gateway, both on the load's core, and `python_ms`.

    Machines differ: a figure of one machine says nothing beside one of another unless these are told with it.
    """
    whole = load(mock, "--c", "64", seconds=CALIBRATION_S)
    streams = load(mock, *stream_arguments(32, 100, 0), seconds=CALIBRATION_S)
    return {"requests_per_s": round(whole["rps"]), "chunks_per_s": round(streams["chunks_s"]), "python_ms": python_ms()}
