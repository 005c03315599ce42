"""Tasks: their examples, prompts, label words, splits and metrics."""

from pets.tasks.glue import Example, Label, Task, TaskData, available, get

__all__ = ["Example", "Label", "Task", "TaskData", "available", "get"]
