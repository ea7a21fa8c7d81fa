"""Which code computes: fused numba kernels on the CPU, or PyTorch on any device."""


def choose_engine(engine, device):
    """Return the object whose functions train and predict.

    Parameters
    ----------
    engine : {"auto", "numba", "torch"}
        "auto" takes the numba kernels on the CPU where numba can be imported.
    device : str
        A device of PyTorch. Anything but "cpu" needs the torch engine.

    Raises
    ------
    ValueError
        If the engine or the device does not exist, or the numba engine is asked for on another
        device than the CPU.
    ImportError
        If numba is asked for and cannot be imported.
    """
    if engine not in ("auto", "numba", "torch"):
        raise ValueError(f"engine has to be 'auto', 'numba' or 'torch', got {engine!r}.")
    if engine == "numba" and device != "cpu":
        raise ValueError(
            f"engine='numba' computes on the CPU only, got device={device!r}; use engine='torch' "
            "or engine='auto' for other devices."
        )
    if engine == "numba" or (engine == "auto" and device == "cpu"):
        try:
            from . import _numba_engine
        except ImportError:
            if engine == "numba":
                raise
        else:
            return _numba_engine
    from ._torch_engine import TorchEngine

    return TorchEngine(device)
