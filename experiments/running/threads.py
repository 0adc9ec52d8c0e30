"""How many threads torch may take."""


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads, or as many as it likes.

    Operations of small models are too short for more than one, and on a busy machine several cost
    tenfold.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
