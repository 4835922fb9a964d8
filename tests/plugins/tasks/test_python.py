from __future__ import annotations

import pytest
from prunecore_plugins.tasks.python import PythonTask

from prunecore import ConfigError, DataError

CODE = """
import sibling
from prunecore.training import TensorData, classification_task
import torch

def make(count=4):
    data = TensorData(torch.zeros(count, 1), torch.zeros(count, dtype=torch.long))
    return classification_task(sibling.NAME, data, data, num_classes=2)

def other():
    return 3
"""


def test_a_task_from_the_users_file(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "sibling.py").write_text("NAME = 'own'\n")
    options = PythonTask.Options(source=f"{tmp_path}/mine.py:make", args={"count": 7})
    task = PythonTask(options).prune_task()
    assert (task.name, len(task.train)) == ("own", 7)
    with pytest.raises(DataError, match=r"returned a int, expected a prunecore\.Task"):
        PythonTask(PythonTask.Options(source=f"{tmp_path}/mine.py:other")).prune_task()
    with pytest.raises(
        ConfigError, match=r"make failed at code\.py:\d+: TypeError: .*unexpected keyword argument 'size'"
    ):
        PythonTask(PythonTask.Options(source=f"{tmp_path}/mine.py:make", args={"size": 7})).prune_task()
