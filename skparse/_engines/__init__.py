"""The code that computes: compiled numba kernels on the CPU, or PyTorch on any device.

Both engines have the same functions, which take the arguments of `skparse._engines.arguments`.
"""


def get_engine(engine, device):
    """Return the object whose functions train and predict.

    Parameters
    ----------
    engine : {"auto", "numba", "torch"}
        "auto" is the numba engine on the CPU if numba can be imported, else the torch engine.
    device : str
        A device of PyTorch. Any other than "cpu" needs the torch engine.

    Raises
    ------
    ValueError
        If the engine or the device does not exist, or if the numba engine is requested on
        another device than the CPU.
    ImportError
        If the numba engine is requested and numba cannot be imported.
    """
    if engine not in ("auto", "numba", "torch"):
        raise ValueError(f"engine has to be 'auto', 'numba' or 'torch', got {engine!r}.")
    if engine == "numba" and device != "cpu":
        raise ValueError(
            f"engine='numba' computes on the CPU only, got device={device!r}; use engine='torch' "
            "or engine='auto' for other devices."
        )
    # Imported here, so that `import skparse` loads neither numba nor PyTorch.
    if engine == "numba" or (engine == "auto" and device == "cpu"):
        try:
            from . import numba_engine
        except ImportError:
            if engine == "numba":
                raise
        else:
            return numba_engine
    from .torch_engine import TorchEngine

    return TorchEngine(device)
