from tests.loading.fixtures import scene

__all__ = ["scene"]
