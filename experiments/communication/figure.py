"""Figure of the study from its result file: ``python -m experiments.communication.figure``."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Bytes up of a client in a round, by system and kind of round, unsealed; one panel an adapter."""
    import matplotlib.pyplot as plt

    stored = json.loads((HERE / "results" / "bytes.json").read_text(encoding="utf-8"))
    rows = [r for r in stored["rows"] if r["sealing"] == "none" and r["kind"] in ("prepare", "train")]
    adapters = list(stored["config"]["adapters"])
    figure, panels = plt.subplots(1, len(adapters), figsize=(13, 4.2), sharey=True)
    names = list(dict.fromkeys(r["codec"] for r in rows))
    names.sort(key=lambda name: next(r["bytes_up"] for r in rows[::-1] if r["codec"] == name))
    for panel, adapter in zip(panels, adapters, strict=True):
        for kind, shift, colour in (("prepare", 0.2, "C1"), ("train", -0.2, "C0")):
            found = {r["codec"]: r for r in rows if (r["adapter"], r["kind"]) == (adapter, kind)}
            for place, name in enumerate(names):
                if name in found:
                    row = found[name]
                    panel.barh(place + shift, row["bytes_up"], 0.38, color=colour)
                    text = f" {row['bytes_up']:,} B, {row['values']:,} values"
                    panel.text(row["bytes_up"], place + shift, text, va="center", fontsize=8)
        panel.set_xscale("log")
        panel.set_xlim(10, 10**11)
        panel.set_yticks(range(len(names)), names)
        dimension = next(r["dimension"] for r in rows if r["adapter"] == adapter)
        panel.set_title(f"{adapter}: {dimension:,} trained values")
        panel.set_xlabel("bytes up, a client and round")
        panel.grid(axis="x", alpha=0.3)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ("C1", "C0")]
    panels[0].legend(handles, ["before training (stage 1)", "a round of training (stage 2)"], fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "results" / "bytes.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
