"""A whole config: its sections as frozen dataclasses, built once from a ConfigDict.

Everything else about keys follows from the declarations of the sections: the ConfigDict that
experiment files change (`Config.to_config_dict`), the checks of keys, types and ranges
(`Config.of_flat`), which mode a key has an effect on, and docs/config.md.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from ml_collections import ConfigDict, FieldReference

from scoreflow.errors import RequestError, did_you_mean, nearest
from scoreflow.paths import user_path
from scoreflow.schema.applications.classify import ClassifyConfig
from scoreflow.schema.applications.compress import CompressConfig
from scoreflow.schema.applications.features import FeaturesConfig
from scoreflow.schema.evaluation_sections import (
    ClassifierConfig,
    CompareConfig,
    ControlConfig,
    EquivalenceConfig,
    LikelihoodConfig,
    ProfileConfig,
    SamplingConfig,
)
from scoreflow.schema.ranges import COUNT_OR_NONE, AllBut
from scoreflow.schema.request import Flat, flatten
from scoreflow.schema.section import Key, Section, Value, key
from scoreflow.schema.training_sections import DataConfig, ModelConfig, SDEConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """All that a run is made from; the defaults are DDPM's CIFAR-10 recipe on other data.

    Ho et al. 2020, section 4 and appendix B.
    """

    SECTIONS: ClassVar[tuple[type[Section], ...]] = (
        DataConfig,
        SDEConfig,
        ModelConfig,
        TrainingConfig,
        SamplingConfig,
        ControlConfig,
        ClassifierConfig,
        LikelihoodConfig,
        ClassifyConfig,
        CompareConfig,
        EquivalenceConfig,
        ProfileConfig,
        FeaturesConfig,
        CompressConfig,
    )

    seed: int = key(
        0, "seed of the weights, the order of the data and the noise of training", COUNT_OR_NONE
    )
    data: DataConfig = DataConfig()
    sde: SDEConfig = SDEConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    control: ControlConfig = ControlConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    classify: ClassifyConfig = ClassifyConfig()
    compare: CompareConfig = CompareConfig()
    equivalence: EquivalenceConfig = EquivalenceConfig()
    profile: ProfileConfig = ProfileConfig()
    features: FeaturesConfig = FeaturesConfig()
    compress: CompressConfig = CompressConfig()

    @classmethod
    def of(cls, config: "AnyConfig") -> "Config":
        """The config of a ConfigDict, or the config itself.

        Raises:
            RequestError: a key is unknown or missing, or its value of a wrong type or range.
        """
        if isinstance(config, cls):
            return config
        return cls.of_flat(flatten(config.to_dict()), "the config")

    @classmethod
    def of_flat(cls, flat: Flat, where: str) -> "Config":
        """The config with exactly these values, by dotted keys.

        Args:
            flat: a value for each of `KEYS`.
            where: they come from, for messages.

        Raises:
            RequestError: as in `of`.
        """
        for name in flat:
            if name not in KEYS:
                raise RequestError(f"{where}: {unknown('config key', name, sorted(KEYS))}")
        if missing := sorted(KEYS.keys() - flat.keys()):
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise RequestError(f"{where} lacks the config keys {', '.join(missing[:5])}{more}")
        try:
            values = {name: KEYS[name].convert(value) for name, value in flat.items()}
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error
        sections = {
            section.NAME: section(**_own(section.declarations(), values))
            for section in cls.SECTIONS
        }
        arguments: dict[str, Any] = _own(cls.declarations(), values) | sections
        return cls(**arguments)

    def to_dict(self) -> dict[str, Any]:
        """The values by section and name."""
        return super().to_dict() | {
            section.NAME: vars(self)[section.NAME].to_dict() for section in self.SECTIONS
        }

    def to_config_dict(self) -> ConfigDict:
        """The same as a ConfigDict: the contract of experiment files and overrides."""
        found = self.to_dict()
        several = (each for each in KEYS.values() if each.classes or each.undecided)
        for name in (each.name for each in several):
            section, _, option = name.partition(".")
            # a number or a text, which a field of one type would refuse to become the other
            found[section][option] = FieldReference(found[section][option], field_type=object)
        return ConfigDict(found)


AnyConfig: TypeAlias = Config | ConfigDict
"""A config as functions of several rooms take it."""


def _own(keys: tuple[Key, ...], values: Mapping[str, Value]) -> dict[str, Any]:
    return {each.option: values[each.name] for each in keys}


def _all_keys() -> dict[str, Key]:
    sections: tuple[type[Section], ...] = (Config, *Config.SECTIONS)
    declared = [section.declarations() for section in sections]
    return {each.name: each for keys in declared for each in keys}


KEYS = _all_keys()
"""Every key of a config, by its dotted name."""
TYPING_SLIP = 0.9
"""Likeness above which a name is taken for another one that was mistyped."""
LATER = tuple(name for name, each in KEYS.items() if each.later)
"""Keys of the weights that the oldest runs lack; the default does what they did."""
LATER_FILES = {
    "control.image",
    "control.other",
    "control.mask",
    "likelihood.against",
    "compare.inception",
}
"""Keys of modes after training that name a file or a folder."""
EVALUATION = tuple(section.NAME for section in Config.SECTIONS if section.MODES)
"""Sections that may change after training; the others belong to the weights."""


def belongs_to_weights(name: str) -> bool:
    """Whether a dotted key is fixed by training."""
    return name.split(".")[0] not in EVALUATION


def without_effect(name: str, mode: str) -> str | None:
    """What to do about a key set for a mode on which it has no effect; None where it has one.

    Args:
        name: a dotted key.
        mode: of the command line.

    Returns:
        "leave it out", or what to set instead.
    """
    whole = mode in ("train", "import")  # they write the config of a run
    if whole or belongs_to_weights(name) or name not in KEYS or mode in KEYS[name].modes:
        return None
    return KEYS[name].instead.get(mode, "leave it out")


NOT_OF_RUNS = {
    "likelihood.step": "set sampling.step, the step of samples and likelihoods",
    "likelihood.against": "the runs are those of --runs",
    **dict.fromkeys(
        (
            f"likelihood.{name}"
            for name in (
                "ledger",
                "terms",
                "data",
                "scores",
                "reference",
                "held_out",
                "fit",
                "mode",
                "background",
            )
        ),
        "leave it out",
    ),
    "likelihood.ema_length": "set sampling.ema_length, of samples and likelihoods",
    "compare.guidance": "leave it out",
    "compare.ema_lengths": "leave it out, or give one run by --workdir",
    "compare.ema_images": "leave it out",
}
"""Keys of the sections that a comparison of runs does not read, and what to do instead."""


def without_effect_on_runs(name: str) -> str | None:
    """The same for a comparison of runs, which measures likelihoods and draws samples."""
    if name in NOT_OF_RUNS:
        return NOT_OF_RUNS[name]
    found = [without_effect(name, mode) for mode in ("compare", "likelihood")]
    return None if None in found else found[0]


def refuse_idle(overrides: Flat, config: Flat, section: str = "") -> None:
    """Refuse a key of the weights that was set for choices under which nothing reads it.

    A config file may set such keys: they are there for choices made on the command line.

    Args:
        overrides: what the user has set; "" asks for nothing.
        config: all keys with their values, the overrides among them.
        section: another one whose keys are asked for, "likelihood" say.

    Raises:
        RequestError: names the choice, and what would give the key an effect.
    """
    for name, value in overrides.items():
        asked = belongs_to_weights(name) or name.split(".")[0] == section
        unmet = _unmet(name, config) if asked and value != "" else []
        if not unmet:
            continue
        choices = " and ".join(
            dict.fromkeys(f"{each} = {as_flag(config[each])}" for each, _ in unmet)
        )
        remedies = [
            f"--config.{each}={as_flag(value)}"
            for each, values in unmet
            if (value := values.such_as if isinstance(values, AllBut) else values[0]) != ""
        ]
        of_the_data = any(each == "data.name" for each, _ in unmet)
        if of_the_data and config["data.name"] == "given":
            raise RequestError(
                f"{name} has no effect on data from Python ({choices}), which are taken as they "
                "are passed: convert them first, and leave it out"
            )
        if of_the_data:
            remedies.append("--data PATH")
        added = f"add {' or '.join(remedies)}, or " if remedies else ""
        raise RequestError(f"{name} has no effect on {choices}: {added}leave it out")


def has_effect(name: str, config: Flat) -> bool:
    """Whether something reads a key under the choices of a config.

    Args:
        name: of the key, dotted.
        config: all keys with their values.
    """
    return not _unmet(name, config)


def refuse_nonsense(asked: Flat) -> None:
    """Refuse names that are none and lists without an entry, also of keys without effect now.

    Args:
        asked: a value each, by dotted key.

    Raises:
        RequestError: a mode to come would refuse the run's own config.
    """
    for name, value in asked.items():
        if name in KEYS:
            KEYS[name].refuse_nonsense(value)


def refuse_missing_files(asked: Flat) -> None:
    """Refuse a file of a later mode that is not there when a training stores its name.

    Args:
        asked: as above.

    Raises:
        RequestError: it is not there.
    """
    for name in LATER_FILES & asked.keys():
        value = str(asked[name])
        if not value or value.startswith("test:") or value in ("raw", "download"):
            continue
        if not user_path(value, name).exists():
            raise RequestError(
                f"{name}: no such file {value!r}; leave it to the mode that reads it"
            )


def _unmet(name: str, config: Flat) -> list[tuple[str, tuple[Value, ...] | AllBut]]:
    """Of each condition of a key what fails, with the values that would do; [] if one holds."""
    failing = []
    for way in KEYS[name].only if name in KEYS else ():
        found: list[tuple[str, tuple[Value, ...] | AllBut]] = []
        for other, values in way.items():
            found += _unmet(other, config)
            found += [(other, values)] if config[other] not in values else []
        if not found:
            return []
        failing.append(found[0])
    return failing


def shown(value: object) -> str:
    """A value in a sentence, a truth value as flags have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_flag(value: object) -> str:
    """A value as a flag takes it, quoted for a shell where that is needed."""
    if isinstance(value, list | tuple):
        return shlex.quote(str(tuple(value)).replace("'", '"'))
    return shlex.quote(shown(value))


def unknown(what: str, got: str, options: Iterable[str]) -> str:
    """The message about a name that there is not, with the nearest one or all that there are.

    A key of another section, "training.seed" for "seed", is nearer than any that is spelt like it.
    """
    names = list(options)
    last = got.rpartition(".")[2]
    if last in names and nearest(got, names, TYPING_SLIP) is None:
        return f"unknown {what} {got!r}; did you mean {last!r}?"
    hint = did_you_mean(got, names, f"they are {', '.join(names)}")
    return f"unknown {what} {got!r}; {hint}"
