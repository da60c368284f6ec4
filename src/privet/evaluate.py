"""``privet evaluate``: a finished run's adapter beside its base model, on the run's task or on any of lm-eval's.

Exact metrics are released here, so the records have to be declared public. Nothing is measured on others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from privet.config import Config, load
from privet.data_config import SentimentData
from privet.errors import PrivetError
from privet.report.record import RunRecord
from privet.templates import choices

Progress: TypeAlias = Callable[[str, int, int], None]
LM_EVAL = "lm_eval:"
ALLOWED = "sentiment, choices, loss, or lm_eval:NAME"


def evaluate(
    run: Path, task: str | None = None, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a run's adapter and its base model.

    Args:
        run: The run's folder.
        task: ``choices`` (accuracy over the verbalisers) or ``loss`` (of the completions) on the run's own test
            records; ``sentiment``, ``choices`` on the embedded data whatever the run was trained on; or
            ``lm_eval:NAME``. ``None`` is what the run itself was measured by.
        limit: Records a silo or domain, or items a task, at most.
        progress: Told what goes on.

    Returns:
        ``task``, ``run``, ``base`` and ``adapter``. For records, both hold the means over silos (``accuracy`` if there
        are choices, ``nll`` in nats), and ``silos`` has the rows: ``silo``, ``when`` (``base`` or ``adapter``),
        ``records``, ``accuracy`` with its 95 % Wilson interval, ``nll`` with its standard error.

    Raises:
        PrivetError: for an unknown task, a run without adapter, or test records that are not public.
    """
    record = RunRecord.open(run)
    config = load(record.folder / "resolved.yaml")
    task = task or config.evaluation.metric
    facts: dict[str, Any] = {"task": task, "run": record.name}
    if task.startswith(LM_EVAL):
        return facts | _lm_eval(record, config, task.removeprefix(LM_EVAL), limit, progress)
    if task not in ("sentiment", "choices", "loss"):
        raise PrivetError("there is no such task", field="--task", given=task, allowed=ALLOWED)
    return facts | _records(record, _adjust(config, task, limit), progress)


def flat_facts(measured: dict[str, Any]) -> dict[str, str]:
    """What `evaluate` returned, as names and values for a table."""
    facts = {}
    for when in ("base", "adapter"):
        for metric, value in measured[when].items():
            facts[f"{metric}, {when}"] = "–" if value is None else f"{value:.4g}"
    for row in measured.get("silos", ()):
        shown = f"NLL {row['nll']:.3f}" + (f" ± {row['nll_se']:.3f}" if row["nll_se"] is not None else "")
        if row["accuracy"] is not None:
            shown += (
                f", accuracy {row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
            )
        facts[f"{row['silo']} ({row['records']} records), {row['when']}"] = shown
    return facts


def _adjust(config: Config, task: str, limit: int | None) -> Config:
    metric: Literal["choices", "loss"] = "loss" if task == "loss" else "choices"
    data = config.data
    if task == "sentiment" and not isinstance(data, SentimentData):
        data = SentimentData(max_length=data.max_length)
    if metric == "choices" and not choices(data.template):
        raise PrivetError(
            "this run's records have no choices",
            field="--task",
            given=task,
            allowed="loss, or a run whose data.template is a classification",
        )
    if not data.test_public:
        raise PrivetError(
            "exact metrics on private records would leave their silo outside the guarantee",
            field="data.test_public",
            given="false",
            hint="declare test data public if they are, or use --task sentiment or lm_eval:NAME",
        )
    evaluation = config.evaluation.model_copy(update={"metric": metric})
    if limit is not None:
        evaluation = evaluation.model_copy(update={"max_records": limit})
    return config.model_copy(update={"data": data, "evaluation": evaluation})


def _records(record: RunRecord, config: Config, progress: Progress | None) -> dict[str, Any]:
    from privet.export import check_finished
    from privet.material import gather
    from privet.measure import means, measure

    def observe(kind: str, facts: dict[str, Any]) -> None:
        if progress is not None:
            progress(facts["name"], facts.get("done", 0), facts.get("total", 0))

    check_finished(record)
    material = gather(config, observe)
    layout = material.trainer.backbone.layout
    states = {"base": layout.initial_flat(), "adapter": layout.load_peft(record.adapter)}
    if not any(material.test.values()):
        raise PrivetError(
            "there are no test records", field="data.split.test", hint="hold some out, or use lm_eval:NAME"
        )
    rows = []
    for when, flat in states.items():
        observe("stage", {"name": f"measuring ({when})"})
        rows += [{"when": when, **row} for row in measure(material, flat, config.engine.micro_batch)]
    return {when: means(rows, when) for when in states} | {"silos": rows}


def _lm_eval(
    record: RunRecord, config: Config, name: str, limit: int | None, progress: Progress | None
) -> dict[str, Any]:
    from privet.export import check_finished, export
    from privet.lm_tasks import LmEval
    from privet.models import load_model

    def tell(doing: str) -> None:
        if progress is not None:
            progress(doing, 0, 0)

    check_finished(record)
    tell("starting lm-eval")
    task = LmEval(name, limit=limit)
    tell(f"loading {config.model.name}")
    loaded = load_model(config.model, progress)
    with tempfile.TemporaryDirectory(prefix="privet-export-") as folder:
        export(record, Path(folder), base=config.model.name)
        # Plain peft, so that what is measured is what others will load.
        from peft import PeftModel

        tell(f"{name} (base)")
        base = task(loaded.model, loaded.tokenizer)
        model = PeftModel.from_pretrained(loaded.model, folder)
        tell(f"{name} (adapter)")
        adapter = task(model, loaded.tokenizer)
    return {"base": base, "adapter": adapter}
