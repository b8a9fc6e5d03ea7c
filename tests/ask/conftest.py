from lively_model import asked_cache, lively, lively_folder

__all__ = ["asked_cache", "lively", "lively_folder"]
