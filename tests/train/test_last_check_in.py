"""Which check-in the next one is compared with, out of records with rewinds, other settings and other talk."""

from pathlib import Path

from lab.records import Episode, Records
from train.check_ins import EPISODE, last_check_in


def episode(segment: int, step: int, setting: str, kind: str = EPISODE) -> Episode:
    return Episode(segment=segment, step=step, kind=kind, regime=None, data={"setting": setting, "samples": []})


def test_the_check_in_before_is_the_newest_of_this_history_and_setting(tmp_path: Path) -> None:
    with Records.writer(tmp_path / "run.db") as records:
        first = records.new_segment(0, None, "x")
        records.add_now(*(episode(first, step, "calm") for step in (100, 200, 300)), episode(first, 250, "loud"))
        rewound = records.new_segment(200, first, "x")  # what came after step 200 is another history now
        records.add_now(episode(rewound, 400, "calm"), episode(rewound, 500, "calm", kind="self-play"))

        def found(step: int, setting: str) -> tuple[int, int] | None:
            row = last_check_in(records, step, setting)
            return None if row is None else (row.segment, row.step)

        assert found(600, "calm") == (rewound, 400)
        assert found(400, "calm") == (first, 200)  # not itself, and not step 300, which the rewind left
        assert found(600, "loud") is None
        assert found(100, "calm") is None
