"""A configuration is resolved in a fixed order, saved whole, and refused with the key, its value and the way out."""

from pathlib import Path

import pytest

from lab.config import PRESETS, BadConfig, RunConfig, load_config


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_survives_being_written_and_read(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    again = load_config(file=file)
    assert again == config and again.hash() == config.hash()


def test_presets_have_the_shapes_that_everything_is_measured_at() -> None:
    shapes = {name: (c.model.n_layers, c.model.d_model, c.model.n_ctx, c.model.d_vocab) for name, c in all_presets()}
    assert shapes == {
        "tiny": (2, 64, 64, 4096),
        "demo": (6, 128, 128, 4096),
        "laptop": (6, 256, 256, 4096),
        "8gb": (12, 768, 512, 16384),
    }
    assert load_config("demo").train.batch == 32 and load_config("laptop").train.batch == 16


def all_presets() -> list[tuple[str, RunConfig]]:
    return [(name, load_config(name)) for name in PRESETS]


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('preset = "tiny"\n[train]\nsteps = 77\nbatch = 3\n')
    config = load_config(file=file, overrides=["train.batch=5", "train.device=cpu"])
    assert (config.preset, config.train.steps, config.train.batch, config.model.d_model) == ("tiny", 77, 5, 64)
    assert load_config("demo", file).preset == "demo"


def test_the_hash_depends_on_every_value_and_not_on_how_it_was_written() -> None:
    assert load_config("tiny", overrides=["optimizer.lr=5e-3"]).hash() == load_config("tiny").hash()
    assert load_config("tiny", overrides=["optimizer.lr=2e-3"]).hash() != load_config("tiny").hash()


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config("tiny").train.steps = 5  # type: ignore[misc]


BAD = [
    ("model.d_model=130", "model.n_heads"),
    ("model.n_heads=3", "not divisible"),
    ("model.n_heads=128", "odd"),
    ("model.n_key_value_heads=3", "does not divide"),
    ("model.d_vocab=200", "model.d_vocab = 200"),
    ("model.n_layers=0", "model.n_layers = 0"),
    ("model.n_ctx=1.5", "model.n_ctx = 1.5"),
    ("model.layers=3", "Did you mean n_layers"),
    ("model.eps=0", "greater than 0"),
    ("train.step=3", "Did you mean steps"),
    ("train.steps=many", "'many'"),
    ("train.steps=0", "train.steps = 0"),
    ("train.steps=true", "train.steps = True"),
    ("train.batch=-4", "train.batch = -4"),
    ("train.device=tpu", "'tpu'"),
    ("train.dtype=float8", "float8"),
    ("train.seed=-1", "train.seed = -1"),
    ("train=3", "train = 3"),
    ("optimizer.lr=nan", "optimizer.lr"),
    ("optimizer.lr=0", "optimizer.lr = 0"),
    ("optimizer.betas=[0.9, 1.5]", "both must lie"),
    ("optimizer.betas=[0.9]", "optimizer.betas"),
    ("optimizer.warmup_steps=5000", "Warm up for fewer"),
    ("optimizer.decay=stairs", "stairs"),
    ("checkpoint.keep=1", "greater than or equal to 2"),
    ("checkpoint.every=0", "checkpoint.every = 0"),
    ("reference.step=99999", "after the last step"),
    ("probing.layers=[9]", "layers 0..6"),
    ("probing.layers=[]", "layers 0..6"),
    ("probing.layers=some", "probing.layers"),
    ('probing.tasks=["class.later"]', "class.current"),
    ("probing.folds=2", "probing.folds = 2"),
    ("data.validation_share=0.9", "data.validation_share = 0.9"),
    ("data.sources=[]", "at least one text"),
    ('data.sources=[{name="a", kind="text"}]', "needs path"),
    ('data.sources=[{name="a", kind="sotu", path="x"}]', "Take path out"),
    ('data.sources=[{name="a b", kind="sotu"}]', "data.sources.0.name"),
    ('data.sources=[{name="a", kind="pdf", path="x"}]', "pdf"),
    ('data.sources=[{name="chat", kind="sotu"}, {name="chat", kind="chitchat"}]', "twice"),
    ("data.phases=[{from_step=3, weights={chat=1.0}}]", "from_step = 0"),
    ("data.phases=[{from_step=0, weights={poems=1.0}}]", "is no source"),
    ("data.phases=[{from_step=0, weights={chat=0.0}}]", "positive sum"),
    ("data.phases=[{from_step=0, weights={chat=1.0}}, {from_step=90000, weights={prose=1.0}}]", "never come"),
    ("shimmer.every=-1", "shimmer.every = -1"),
    ("check_ins.system_from=5000", "never be used"),
    ("journal.kinds=[]", "blind, informed or both"),
    ("self_play.turns=0", "self_play.turns = 0"),
    ("colour=red", "no key"),
    ("preset=laptop", "Use --preset"),
    ("=3", "section.key=value"),
    ("train.steps", "section.key=value"),
]


@pytest.mark.parametrize(("override", "says"), BAD)
def test_a_bad_value_is_refused_with_key_value_and_remedy(override: str, says: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        load_config("demo", overrides=[override])
    assert says in str(refusal.value)
    assert "validation error" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[train\nsteps=3", "not valid TOML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[trian]\nsteps=3", "Did you mean train"),
    ],
)
def test_a_bad_file_is_refused_by_name(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(BadConfig, match=r"bad\.toml") as refusal:
        load_config(file=file)
    assert says in str(refusal.value)


def test_a_missing_file_and_an_unknown_preset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="no such configuration file"):
        load_config(file=tmp_path / "none.toml")
    with pytest.raises(BadConfig, match="Presets are"):
        load_config("huge")
