"""Tasks of the Language Model Evaluation Harness, among them one that needs no network.

L. Gao et al., "The Language Model Evaluation Harness" (EleutherAI), package ``lm-eval``. ``mmlu_offline`` asks the
281 four-choice questions that the package itself holds: MMLU's development questions (Hendrycks et al., arXiv
2009.03300), which its chain-of-thought prompts quote. They are asked as ``mmlu`` asks them, without examples before.
It is a quick look at what knowledge was kept, not a leaderboard's number.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from privet.errors import PrivetError

OFFLINE_TASK = "mmlu_offline"
ALIASES = {"ceval": "ceval-valid"}
_QUESTION = re.compile(r"^(.*?)\s*\(A\)(.*)\(B\)(.*)\(C\)(.*)\(D\)(.*)$", re.DOTALL)
_PROMPT = "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
_ANSWER = re.compile(r"answer is \(([A-D])\)")


class LmEval:
    """One task of the harness, on any number of models.

    Args:
        task: Name of a task or group, e.g. ``mmlu``, ``ceval`` or ``mmlu_offline``.
        limit: Items of each task at most.
        batch_size: Sequences in a pass.

    Raises:
        PrivetError: if lm-eval is not installed or has no such task.
    """

    def __init__(self, task: str, *, limit: int | None = None, batch_size: int = 16) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise PrivetError(
                "tasks of lm-eval need the package lm-eval",
                field="--task",
                given=f"lm_eval:{task}",
                hint="pip install 'privet[eval]'",
            )
        self.name = ALIASES.get(task, task)
        self.limit, self.batch_size = limit, batch_size
        if self.name != OFFLINE_TASK and self.name not in _tasks_of_the_package().task_index:
            raise PrivetError(
                "lm-eval has no such task",
                field="--task",
                given=f"lm_eval:{task}",
                allowed=f"{OFFLINE_TASK} (no network), mmlu, ceval, or any that `lm-eval ls tasks` names",
            )

    def __call__(self, model: Any, tokenizer: Any) -> dict[str, float]:
        """Evaluate one model.

        Args:
            model: A ``transformers`` or ``peft`` model.
            tokenizer: Its tokenizer.

        Returns:
            The task's metrics by name with their standard errors, e.g. ``acc`` and ``acc_stderr``, and ``items``.

        Raises:
            PrivetError: if the task's data cannot be had.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        try:
            # The harness writes its progress and warnings to stderr, whatever its verbosity.
            with contextlib.redirect_stderr(io.StringIO()), self._tasks() as tasks:
                found = lm_eval.simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size),
                    tasks=[self.name],
                    task_manager=tasks,
                    limit=self.limit,
                    log_samples=False,
                    bootstrap_iters=100,
                )
        except (OSError, ValueError) as error:  # what datasets raises when it cannot reach the hub
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise PrivetError(
                f"the task cannot be run: {reason}",
                field="--task",
                given=f"lm_eval:{self.name}",
                hint=f"its data come from the Hugging Face hub; lm_eval:{OFFLINE_TASK} needs no network",
            ) from error
        return _metrics(found, self.name)

    @contextlib.contextmanager
    def _tasks(self) -> Iterator[Any]:
        if self.name != OFFLINE_TASK:
            yield _tasks_of_the_package()
            return
        from lm_eval.tasks import TaskManager

        with tempfile.TemporaryDirectory(prefix="privet-lm-eval-") as folder:
            write_offline_task(Path(folder))
            yield TaskManager(include_path=folder, include_defaults=False)


@functools.cache
def _tasks_of_the_package() -> Any:
    """The index of all of the package's tasks; it reads thousands of files, so it is made once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _metrics(found: dict[str, Any], name: str) -> dict[str, float]:
    row = found.get("groups", {}).get(name) or found["results"][name]
    metrics = {}
    for key, value in row.items():
        metric, _, version = key.partition(",")
        if isinstance(value, int | float) and version in ("none", ""):
            metrics[metric] = float(value)
    counts = [counts["effective"] for counts in found["n-samples"].values()]
    return {**{k: v for k, v in metrics.items() if k != "sample_len"}, "items": float(sum(counts))}


def write_offline_task(folder: Path) -> Path:
    """Write the task ``mmlu_offline`` and its data, for ``--include_path`` of the harness too.

    Args:
        folder: An existing folder.

    Returns:
        The task's YAML file.

    Raises:
        PrivetError: if the installed lm-eval holds no such questions.
    """
    items = list(offline_items())
    if not items:
        raise PrivetError(
            "the installed lm-eval holds no MMLU questions",
            field="lm-eval",
            hint="pip install 'lm-eval>=0.4.9,<0.5'",
        )
    data = folder / f"{OFFLINE_TASK}.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    task = {
        "task": OFFLINE_TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": _PROMPT,
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{OFFLINE_TASK}.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return path


def offline_items() -> Iterator[dict[str, Any]]:
    """The four-choice questions of the installed lm-eval: subject, question, choices, and answer (0 to 3)."""
    folder = importlib.resources.files("lm_eval") / "tasks" / "mmlu" / "flan_cot_fewshot"
    for file in sorted(folder.iterdir(), key=lambda path: path.name):
        if not file.name.startswith("mmlu_") or not file.name.endswith(".yaml"):
            continue
        for sample in yaml.safe_load(file.read_text(encoding="utf-8"))["fewshot_config"]["samples"]:
            question, answer = _QUESTION.match(sample["question"]), _ANSWER.search(sample["target"])
            if question and answer:
                text, *choices = (part.strip() for part in question.groups())
                subject = file.name.removeprefix("mmlu_").removesuffix(".yaml")
                yield {
                    "subject": subject,
                    "question": text,
                    "choices": choices,
                    "answer": "ABCD".index(answer[1]),
                }
