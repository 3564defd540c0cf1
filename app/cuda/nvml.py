"""What NVIDIA's management library says of a GPU: the driver's version and the clocks. It is part of the driver."""

import ctypes

_LIBRARY = "libnvidia-ml.so.1"
_SM_CLOCK = 1
_VERSION_CHARACTERS = 80


def find_driver_version() -> str | None:
    """Return the driver's version, such as 580.65.06; None where the library is missing."""
    library = _open()
    if library is None:
        return None
    text = ctypes.create_string_buffer(_VERSION_CHARACTERS)
    found = library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_VERSION_CHARACTERS)) == 0
    library.nvmlShutdown()
    return text.value.decode() if found else None


def find_clocks(pci_bus_id: str) -> dict[str, int] | None:
    """Return {"sm_mhz", "max_sm_mhz"} of the GPU at that PCI address now; None where it cannot be told."""
    library = _open()
    if library is None:
        return None
    device, now, most = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    answers = [library.nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id.encode(), ctypes.byref(device))]
    if answers == [0]:
        answers.append(library.nvmlDeviceGetClockInfo(device, _SM_CLOCK, ctypes.byref(now)))
        answers.append(library.nvmlDeviceGetMaxClockInfo(device, _SM_CLOCK, ctypes.byref(most)))
    library.nvmlShutdown()
    return None if any(answers) else {"sm_mhz": now.value, "max_sm_mhz": most.value}


def _open() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None
