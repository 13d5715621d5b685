"""A run that was trained: its config, averaged weights, samples, log-likelihoods and latents.

run = load("runs/digits-vp")
x = run.sample(64, sampler="dpm", steps=20, seed=0)
found = run.log_likelihood(run.data.test[:32], probes=2)
"""

import io
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from ml_collections import ConfigDict
from PIL import Image
from torch import Tensor, nn

from scoreflow.data import identity
from scoreflow.data.dataset import Data, digest
from scoreflow.data.levels import centres, values_of
from scoreflow.errors import RequestError
from scoreflow.evaluation.representations.activations import activations
from scoreflow.evaluation.representations.layers import LATENT
from scoreflow.factory import assembly
from scoreflow.factory.applications import classification, features
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.data import data_of_run, given_of
from scoreflow.factory.guidance import BY_SHARES, build_guidance
from scoreflow.factory.likelihood import asked_of, build_question, labels_of, products_of
from scoreflow.factory.model import build_network
from scoreflow.factory.sampling import (
    build_drawing,
    limited,
    needs_moments,
    planned_evaluations,
)
from scoreflow.factory.training import not_compiled, refuse_edited
from scoreflow.factory.training import remark as training_remark
from scoreflow.generation import error_table
from scoreflow.generation.error_table import ErrorTable
from scoreflow.generation.generate import draw_samples, out_of_evaluations
from scoreflow.generation.pictures import picture
from scoreflow.generation.plan import SamplingPlan
from scoreflow.generation.sample_folder import Draw, fill
from scoreflow.interop.export import export
from scoreflow.interop.imported import Exported
from scoreflow.likelihood.classification.bayes import Posterior
from scoreflow.likelihood.dataset_likelihood import measure
from scoreflow.likelihood.log_likelihoods import LogLikelihoods
from scoreflow.models.classifier import NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.paths import user_path
from scoreflow.runtime import distributed
from scoreflow.runtime.compiling import Use, solver_evaluations
from scoreflow.runtime.device import WITHOUT_FLOAT64, build_device, states_of
from scoreflow.runtime.gpu.transfer import load_weights
from scoreflow.runtime.progress_bar import Progress
from scoreflow.runtime.terminal import tell
from scoreflow.samplers import ProbabilityFlow
from scoreflow.schema.config import Config, refuse_idle
from scoreflow.schema.request import Request, flatten
from scoreflow.schema.resolve import (
    completed,
    evaluation_config,
    facts_of_data,
    frozen,
    resolve,
)
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.storage.checkpoints.averages import AVERAGES, path_of
from scoreflow.storage.checkpoints.content import (
    check_step,
    check_trained_with,
    check_weights,
    glance,
    hash_in_state,
)
from scoreflow.storage.checkpoints.states import DamagedError
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.run_folder import RunDir, Say
from scoreflow.storage.validation import InvalidError
from scoreflow.training.classifier_file import load_classifier
from scoreflow.training.posthoc_ema.snapshots import Snapshots, refuse_without, same_weights

Number = TypeVar("Number", int, float)
ON_IMAGES = (
    "likelihood",
    "compare",
    "classifier",
    "equivalence",
    "profile",
    "features",
    "classify",
    "compress",
)
"""Modes that nothing can be done in without data."""
OTHER_STEP = "load the run with it, as load(DIR, sampling={'step': K})"
OTHER_LENGTH = "load the run with it, as load(DIR, ema_length=0.03)"
UNREAD_BY_SAMPLE = {
    "step": OTHER_STEP,
    "ema_length": OTHER_LENGTH,
    "progressive": "it is a picture that --mode sample makes",
    "task": "editing is a task of --mode sample",
    "save": "sample returns tensors; sample_to writes files, as its argument `save` says",
}
UNREAD_BY_LIKELIHOOD = {
    "step": OTHER_STEP,
    "ema_length": OTHER_LENGTH,
    "data": "pass the images themselves",
    "num_images": "pass fewer images",
    "ledger": "the bounds are made by --mode likelihood",
    "terms": "the bounds are made by --mode likelihood",
    "against": "take the difference of two runs' bits_per_dim, image by image",
    **dict.fromkeys(
        ("scores", "reference", "held_out"), "other data are told apart by --mode likelihood"
    ),
}
UNREAD_BY_FEATURES = {
    "data": "pass the data themselves",
    "num_images": "pass fewer data",
    **dict.fromkeys(("fit", "mode", "background"), "pass the data as the run has them"),
    **dict.fromkeys(
        ("sweep", "layers", "times", "beside", "train_images", "clusters", "repeats"),
        "it is of --mode features",
    ),
}
"""Keys of the sections that the calls do not read, and what to do instead."""
NO_FUNCTION_OF = ("batch_size", "save", "progressive", "task", "ema_length")
"""Keys of the `sampling` section that change no sample of the same weights."""


def load(
    workdir: str | Path,
    device: str | torch.device = "",
    data: object = None,
    data_test: object = None,
    ema_length: float = 0.0,
    **settings: Any,  # noqa: ANN401
) -> "TrainedRun":
    """A run by its folder.

    Args:
        workdir: the folder that training wrote.
        device: "cpu", "cuda", "cuda:1"; "" for the best one found.
        data: what the run was trained on, where that was given from Python; as in `train`.
        data_test: its held-out part; None to cut it as the training did.
        ema_length: relative width of the averaged weights, reconstructed from the snapshots of a
            run with training.ema = power; 0 for the average as trained.
        settings: other values of keys that no weight depends on, a dict a section:
            `sampling={"batch_size": 16}`.

    Raises:
        RequestError: the folder holds no trained run, or a setting is wrong.
    """
    if not isinstance(workdir, str | Path) or not isinstance(device, str | torch.device):
        raise RequestError(
            "load takes a folder, a device and settings by section, as "
            f"load(DIR, 'cpu', sampling={{'steps': 20}}), got {workdir!r} and {device!r}"
        )
    if isinstance(data, dict):  # a section, like all others
        settings, data = {**settings, "data": data}, None
    overrides, path = flatten(settings), user_path(workdir, "the run's folder")
    if ema_length:
        overrides |= {"sampling.ema_length": ema_length, "likelihood.ema_length": ema_length}
    request = Request("", path, str(device), "", {}, overrides, False)
    return open_run(request, tell, given=(data, data_test))


def open_run(
    request: Request, say: Say, training: bool = False, given: tuple[object, object] = (None, None)
) -> "TrainedRun":
    """The run that a request names, under the settings that it overrides.

    Args:
        request: with a workdir.
        say: gets a line for a damaged checkpoint that is passed over.
        training: whether its network will be trained.
        given: data from Python and their held-out part, None where there are none.
    """
    assert request.workdir is not None, "checked by the caller"
    folder = RunDir.open(request.workdir)
    if request.mode not in ("", "export", "decompress"):  # which write no result there
        folder.check_writable()
    saved = flatten(folder.config)
    config = evaluation_config(request, saved, request.workdir / "config.json", folder.bound)
    if not folder.checkpoint_steps():
        raise RequestError(f"{folder.path} has no checkpoint: train it with --mode train")
    if length := asked_length(config, request.mode):
        refuse_without(folder)
    refuse_edited(folder, *folder.glance(asked_step(config, request.mode) or None))
    device = build_device(request.device)
    by_shares = config.sampling.label == BY_SHARES
    needed = training or request.mode in ON_IMAGES or by_shares
    data = None if given[0] is None else given_of(flatten(config.to_dict()), *given)
    if data is not None and config.data.name != "given":
        raise RequestError(
            f"{folder.path} was trained on data.name = {config.data.name}, which it finds by "
            "itself: leave out data"
        )
    if needed and config.data.name == "given" and data is None:
        raise RequestError(
            f"--mode {request.mode} measures on data, and those of {folder.path} were given "
            f"from Python: use scoreflow.load({str(folder.path)!r}, data=DATA).log_likelihood"
        )
    experiment = experiment_of(folder, config, device, needed, training, data)
    if request.mode in ON_IMAGES and not len(experiment.data.test):
        raise RequestError(
            f"--mode {request.mode} measures on images, and {folder.path} was imported without "
            "any: add --data PATH, a folder of images or a name on the Hub"
        )
    for remark in experiment.remarks:
        say(remark)
    if "training.compile" in request.overrides and (without := not_compiled(config, device)):
        say(without)
    if device.type in WITHOUT_FLOAT64 and (where := training_remark(experiment.settings, device)):
        say(where)
    return TrainedRun(folder, experiment, say, at=asked_step(config, request.mode), length=length)


def open_beside(
    run: "TrainedRun", path: str | Path, sections: tuple[str, ...], what: str, say: Say
) -> "TrainedRun":
    """Another run under this one's settings of evaluation, to be compared with it.

    Args:
        run: whose settings are taken over, and whose data, where the other's are not bound.
        path: of the other's folder.
        sections: those taken over, "likelihood" say.
        what: names the other in messages: the key or flag that gave its folder.
        say: gets a line for a damaged checkpoint that is passed over.

    Raises:
        RequestError: it holds no trained run, or cannot be asked so.
    """
    folder, experiment = RunDir.open(path), run.experiment
    if not folder.checkpoint_steps():
        raise RequestError(f"{what}: {folder.path} has no checkpoint")
    own = flatten(experiment.config.to_dict())
    free = tuple(f"{section}." for section in (*sections, *(() if folder.bound else ("data",))))
    asked = {key: own[key] for key in own if key.startswith(free)}
    resolved = resolve(
        {**completed(flatten(folder.config)), **asked}, str(folder.path / "config.json")
    )
    if folder.bound:
        known = experiment.data
        other = experiment_of(folder, resolved, experiment.device, needed=True, known=known)
    else:  # it is measured on our images
        bound = run.folder.bound
        other = assembly.experiment(resolved, experiment.device, training=False, bound=bound)
    length = asked_length(resolved, "compare")
    if length:
        refuse_without(folder)
    return TrainedRun(folder, other, say, at=int(resolved.sampling.step), length=length)


def experiment_of(
    folder: RunDir,
    config: ConfigDict,
    device: torch.device,
    needed: bool,
    training: bool = False,
    given: Data | None = None,
    known: Data | None = None,
) -> Experiment:
    """What a run's config describes, with its data, or a stand-in for them where there is one.

    Args:
        folder: of the run.
        config: its config, or one with other settings of evaluation.
        device: where everything shall lie.
        needed: whether the data themselves are.
        training: whether its network will be trained.
        given: the data, where they come from Python.
        known: data that are loaded already, and taken if they are the run's.

    Raises:
        RequestError: the data are needed, and are gone or changed.
    """
    record = folder.data if folder.bound else {}
    data: Data | None = None  # that the config says
    if record and given is None and not needed and not record["empty_classes"]:
        data = identity.absent(record, states_of(device))
    elif record and known is not None and not identity.differences(record, known):
        data = known
    elif record:
        data = _data_of(folder, config, device, given)
    return assembly.experiment(config, device, training, folder.bound, data, given, folder.path)


def _data_of(
    folder: RunDir, config: ConfigDict, device: torch.device, given: Data | None = None
) -> Data:
    moved = config.data.path != folder.config["data"].get("path", "")
    return data_of_run(config, device, folder.data, folder.path, moved, given)[0]


def asked_step(config: ConfigDict, mode: str) -> int:
    """The checkpoint that a mode reads; 0 for the last. `load` ("") takes either key."""
    return _asked(config, mode, "step", 0)


def asked_length(config: ConfigDict, mode: str) -> float:
    """The length of the average that a mode reads; 0 for the one as trained."""
    return _asked(config, mode, "ema_length", 0.0)


def _asked(config: ConfigDict, mode: str, key: str, none: Number) -> Number:
    drawn: Number = config.sampling[key]
    measured: Number = config.likelihood[key]
    if mode in ("likelihood", "classify"):
        return measured
    if mode == "" and drawn and measured and drawn != measured:
        raise RequestError(
            f"a run is loaded at one {key}, got sampling.{key} = {drawn} and likelihood.{key} = "
            f"{measured}: load it twice"
        )
    return drawn or (measured if mode == "" else none)


class TrainedRun:
    """A trained network with its data, process and settings; weights are read when first used.

    Args:
        folder: the run's folder.
        experiment: what its config describes.
        say: gets a line for a damaged checkpoint that is passed over.
        loaded: the averaged network and its step, where they are in memory already.
        at: the step of the checkpoint that is read; 0 for the last whole one.
        length: of the averaged weights; 0 for those in the checkpoint.

    Attributes:
        folder: the run's folder.
        experiment: config, device, data, process.
    """

    def __init__(
        self,
        folder: RunDir,
        experiment: Experiment,
        say: Say = tell,
        loaded: tuple[ScoreModel, int] | None = None,
        at: int = 0,
        length: float = 0.0,
    ) -> None:
        self.folder, self.experiment, self._say = folder, experiment, say
        self._given, self._at, self._length = loaded, at or None, length
        self._about_average: Json = {}

    @cached_property
    def _loaded(self) -> tuple[ScoreModel, int]:
        return self._given or self.weights("ema")

    @property
    def config(self) -> ConfigDict:
        """The run's config with the settings it was opened under; locked."""
        return self.experiment.config

    @property
    def like(self) -> Data:
        """What the data are like: shape, levels and classes; it need not hold any."""
        return self.experiment.data

    @cached_property
    def data(self) -> Data:
        """The data set, on the run's device; loaded when it is first asked for.

        Raises:
            RequestError: the data are gone, or no longer those that the run was trained on.
        """
        if isinstance(self.like, identity.AbsentData):
            return _data_of(self.folder, self.config, self.experiment.device)
        return self.like

    @cached_property
    def data_if_there(self) -> Data:
        """The data set, or, where it is gone or changed, a stand-in, and a line about it."""
        try:
            return self.data
        except RequestError as error:
            why = str(error).removesuffix(" (drawing samples needs none)")
            self._say(f"samples are not compared with data: {why}")
            return self.like

    def _of_classes(self, config: ConfigDict) -> Data:
        """What classes are known from: the data themselves where samples have their shares."""
        return self.data if config.sampling.label == BY_SHARES else self.like

    @property
    def model(self) -> ScoreModel:
        """The averaged network as a Denoiser: `run.model(x_t, t).score`, or .eps, .x_0, .v."""
        return self._loaded[0]

    @cached_property
    def solved(self) -> ScoreModel:
        """The same for an adaptive solver, never below float32; says so once where it differs."""
        if remark := self.model.solver_remark(self.experiment.device):
            self._say(remark)
        return self.model.for_solver()

    @property
    def solved_in(self) -> Json:
        """What settings of a result say of an adaptive flow: under "precision", or {}."""
        differs = self.model.solver_remark(self.experiment.device)
        return {"precision": "float32"} if differs else {}

    @property
    def step(self) -> int:
        """The training step of the weights."""
        return self._loaded[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the averaged weights."""
        return fingerprint(self.model.network)

    @cached_property
    def measured_on(self) -> Json:
        """Whose images a result is of, as that keeps it: under "measured_on" name, path, SHA-256.

        Empty for a run that its data belong to: its config says which they are.
        """
        if self.folder.bound or not len(self.data.test):
            return {}
        parts = {"test": digest(self.data.test), "train": digest(self.data.train)}
        path = self.config.data.path
        return {"measured_on": {"name": self.data.name, "path": path, "sha256": parts}}

    @cached_property
    def data_digests(self) -> Json:
        """What settings of a result need where data can change: under "data" SHA-256s, or {}."""
        if self.folder.bound:
            return {}
        data = self.data
        return {
            "data": {
                "train": digest(data.train, data.train_labels),
                "test": digest(data.test, data.test_labels),
            }
        }

    def weights(self, name: str) -> tuple[ScoreModel, int]:
        """A network of the checkpoint, the last whole one or that asked for, and its step.

        Args:
            name: "ema" for the averaged weights, "model" for the raw ones.

        Raises:
            RequestError: there is no whole checkpoint, or it is of another network.
        """
        if name not in ("ema", "model"):
            raise RequestError(f"weights must be 'ema' or 'model', got {name!r}")
        if name == "ema" and self._length:
            return self._reconstructed()
        network = self.experiment.network
        if name != "ema":  # beside the averaged one, which is in it
            network = build_network(self.config, self.like)

        def accept(step: int, state: Json) -> None:
            check_step(step, state)
            check_trained_with(state)
            check_weights(name, state.get(name), network)

        step, state = self.folder.load_checkpoint(step=self._at, warn=self._say, accept=accept)
        refuse_edited(self.folder, step, state)
        load_weights(network, state[name])
        return self._denoiser(network), step

    def _reconstructed(self) -> tuple[ScoreModel, int]:
        """The average of another length; its checkpoint may be gone, its snapshots are kept."""
        network, step = self.experiment.network, self._at
        as_trained: dict[str, Tensor] | None = None
        if step is None or step in self.folder.checkpoint_steps():
            there = TrainedRun(self.folder, self.experiment, self._say, at=step or 0)
            model, step = there.weights("ema")
            as_trained = model.network.state_dict()
        found = Snapshots(self.folder, step).averaged(self._length, network)
        refuse_edited(self.folder, step, found.newest)
        if as_trained and not same_weights(as_trained, found.newest[AVERAGES][0]):
            raise RequestError(
                f"{path_of(self.folder.path, step)} is not of the checkpoint of that step: put "
                "back the run's own, or leave out ema_length"
            )
        load_weights(network, found.weights)
        self._about_average = found.about
        return self._denoiser(network), step

    def with_average(self, length: float) -> "TrainedRun":
        """The same run with the average of another length, in a network of its own.

        Args:
            length: relative width of the average; 0 for the one as trained.
        """
        network = build_network(self.config, self.like)
        made = replace(self.experiment, network=network)
        return TrainedRun(self.folder, made, self._say, at=self.step, length=length)

    def with_raw_weights(self) -> "TrainedRun":
        """The same run with its raw weights, in a network of their own."""
        plain = TrainedRun(self.folder, self.experiment, self._say, at=self.step)
        raw = plain.weights("model")
        return TrainedRun(self.folder, self.experiment, self._say, raw, at=self.step)

    @property
    def averaged_as(self) -> Json:
        """What settings of a result say of reconstructed weights: under "ema", or {}."""
        _ = self.model  # which is when it is known
        return {"ema": self._about_average} if self._about_average else {}

    @cached_property
    def trained_with(self) -> Json:
        """What settings of a result say of the config that the weights were trained with.

        Its SHA-256 under "config"; empty for a checkpoint that is older than such hashes.
        """
        _, state = self.folder.glance(self.step)
        if not state and self._length:
            state = glance(path_of(self.folder.path, self.step))
        try:
            digest = hash_in_state(state)
        except DamagedError:  # it was in memory, and its file has been damaged since
            digest = ""
        return {"config": digest} if digest else {}

    def _denoiser(self, network: nn.Module) -> ScoreModel:
        return self.experiment.model.with_network(network.eval().requires_grad_(False))

    def asked_in(self, use: Use, adaptive: bool = False) -> Json:
        """How its network is evaluated for a use, as results record it: precision, compiled.

        Args:
            use: "eval" or "vjp".
            adaptive: whether a solver asks that chooses its steps, which is never below float32.
        """
        asked = self.model.for_solver() if adaptive else self.model
        precision = "float32" if use == "vjp" else asked.precision
        compiled = self.experiment.compiler.has(self.model.network, use, precision)
        return {"precision": precision, "compiled": compiled}

    # ---- samples ----------------------------------------------------------------------------

    def sample(
        self,
        num_images: int,
        sampler: str | None = None,
        levels: bool = True,
        **settings: Any,  # noqa: ANN401
    ) -> Tensor:
        """Draw samples; sample k of a seed is the same in every batch.

        Args:
            num_images: how many.
            sampler: its name; None for the config's.
            levels: whether images come as integer levels, not as points of [-1, 1).
            settings: any key of the `sampling` section: steps, seed, label, guidance, ...

        Returns:
            (num_images, C, H, W) uint8 levels or float64 points; (num_images, D) for vectors.
        """
        _refuse_unread(settings, UNREAD_BY_SAMPLE, "sample")
        config = self._sampling(num_images, sampler, settings)
        c = config.sampling
        plan = self.plan(c.sampler, config)
        noise = Noise.of(c.seed, 0, num_images, self.like.train.device)
        event = tuple(self.like.train.shape[1:])
        x = draw_samples(plan, self.model.sde, noise, event, c.batch_size, c.sampler)
        return values_of(x, self.like) if levels else x

    def sample_to(
        self,
        folder: str | Path,
        num_images: int,
        sampler: str | None = None,
        save: str = "png",
        **settings: Any,  # noqa: ANN401
    ) -> Path:
        """Draw samples into a folder, a batch at a time; the same call again goes on.

        Args:
            folder: for samples of these settings alone.
            num_images: how many.
            sampler: its name; None for the config's.
            save: "png", a file an image; "npz", OpenAI's evaluator's; "pt", a tensor of what
                `sample` returns.
            settings: as in `sample`.

        Returns:
            The folder of the PNGs, or the file.

        Raises:
            RequestError: the folder holds samples of other settings, or a setting is wrong.
        """
        _refuse_unread(settings, UNREAD_BY_SAMPLE, "sample_to")
        config = self._sampling(num_images, sampler, settings)
        name, path = config.sampling.sampler, user_path(folder, "the folder of samples")
        draw = self.draw(self.plan(name, config), name, config)
        return fill(path, save, draw, self.draw_settings(name, config)).path

    def _sampling(self, num_images: int, sampler: str | None, settings: Json) -> ConfigDict:
        named = {} if sampler is None else {"sampler": sampler}
        return self._with("sampling", {**settings, "num_images": num_images, **named})

    def draw(
        self,
        plan: SamplingPlan,
        name: str,
        config: ConfigDict | None = None,
        data: Data | None = None,
    ) -> Draw:
        """What a plan draws under a config.

        Args:
            plan: of the sampler.
            name: of the sampler.
            config: the run's, or one with another `sampling` section.
            data: to compare the samples with; None for a stand-in, and no comparison.
        """
        c = (self.config if config is None else config).sampling
        data = self.like if data is None else data
        return Draw(name, plan, self.model.sde, data, c.seed, c.num_images, c.batch_size)

    def draw_settings(self, name: str, config: ConfigDict | None = None) -> Json:
        """All that a sampler's samples are a function of: settings, weights, kind of device.

        Args:
            name: of the sampler.
            config: as in `draw`.
        """
        config = self.config if config is None else config
        guide = build_guidance(config, self.model, self._of_classes(config))
        section = {k: v for k, v in config.sampling.to_dict().items() if k not in NO_FUNCTION_OF}
        if section["shift"] == 1:  # as samples are kept that are older than the key
            del section["shift"]
        made: Json = {"sampler": name, "guide": guide.guide, "device": self.experiment.device.type}
        made["label"] = guide.asked  # "cat" and its number are one draw
        if name == "ode":
            made |= self.solved_in
        if guide.needs_classifier:
            made["classifier"] = fingerprint(self.classifier().network)
        if not self.folder.bound:  # else both belong to the weights
            made["num_levels"] = self.like.num_levels
            by_shares = guide.classes is not None and guide.classes.counts
            if needs_moments(config, name) or by_shares:
                made["data"] = self.data_digests["data"]["train"]
        of = {"step": self.step, "weights": self.fingerprint, **self.trained_with}
        return {**section, **made, **of}

    def plan(self, sampler: str, config: ConfigDict | None = None) -> SamplingPlan:
        """How a sampler draws from this network under a config, which says how many images.

        Args:
            sampler: its name.
            config: the run's, or one with another `sampling` section.
        """
        config = self.config if config is None else config
        guidance = build_guidance(config, self.model, self._of_classes(config))
        classifier = self.classifier() if guidance.needs_classifier else None
        table = self.error_table(config) if needs_moments(config, sampler) else None
        of = self._of_classes(config)
        asked = self.solved if sampler == "ode" else self.model
        plan = build_drawing(config, sampler, asked, of, classifier, table)
        evaluations = planned_evaluations(config, sampler, asked)
        model = self.fast("eval", evaluations, config.sampling.num_images, asked)
        return (
            plan
            if model is asked
            else build_drawing(config, sampler, model, of, classifier, table)
        )

    def fast(
        self, use: Use, evaluations: float, images: int, model: ScoreModel | None = None
    ) -> ScoreModel:
        """The averaged network as a Denoiser, compiled where the work planned is worth it.

        Args:
            use: "eval", or "vjp" where products with its Jacobian are taken.
            evaluations: planned for each image.
            images: how many.
            model: the same in another precision; None for `model`.
        """
        return self.experiment.fast(model or self.model, use, evaluations, images)

    def error_table(self, config: ConfigDict) -> ErrorTable:
        """The network's errors by timestep, which optimal variance and least-cost grid rest on.

        Measured once and kept in results/moments.json, under a hash of the weights and settings.
        It is that of the law without a class: guidance is no model of the data.
        """
        c = config.sampling
        if len(self.data.train) < 2:
            raise RequestError(
                "the optimal variance and the least-cost grid are measured on training images, "
                f"got {len(self.data.train)}: add --data PATH, or choose another "
                "sampling.variance and sampling.grid"
            )
        settings = {
            "weights": self.fingerprint,
            "seed": config.seed,
            "clip": bool(c.clip),
            "dynamic_threshold": float(c.dynamic_threshold),
            "precision": self.model.precision,
            "num_images": min(error_table.IMAGES, len(self.data.train)),
            "device": str(self.experiment.device),
            **self.trained_with,
            **({"label": self._one_class(config)} if self.model.needs_class else {}),
            **({} if self.folder.bound else {"data": self.data_digests["data"]["train"]}),
        }
        table: ErrorTable | None = None
        shard = distributed.shard()  # all are there before the first one measures, for long
        if distributed.is_main_process():  # what is read again may be another command's by then
            table = self._kept_errors(settings) or self._measured_errors(config, settings)
        columns = None if table is None else table.as_result()
        told = shard.broadcast_from_rank_0(columns)
        return table or ErrorTable.of_result(self.model.sde, told or {})

    def _kept_errors(self, settings: Json) -> ErrorTable | None:
        """The table of some settings in results/moments.json; None where there is none."""
        again, there = "it is made again", self.folder.path / "results" / "moments.json"
        try:
            kept = self.folder.read_result("moments", again)
            if kept.get("settings") == settings:
                return ErrorTable.of_result(self.model.sde, kept)
        except InvalidError as error:
            self._say(f"results/moments.json is damaged ({error}): {again}")
        except RequestError as error:
            if there.exists():
                self._say(str(error))
        return None

    def _one_class(self, config: ConfigDict) -> int:
        """The class that a network is asked about which cannot do without one."""
        guidance = build_guidance(config, self.model, self._of_classes(config))
        if guidance.classes is not None:
            raise RequestError(
                "the optimal variance and the least-cost grid are measured for one class of a "
                f"network that has no row for none, got sampling.label = {config.sampling.label}"
            )
        return guidance.label

    def _measured_errors(self, config: ConfigDict, settings: Json) -> ErrorTable:
        c, knots = config.sampling, error_table.knots(self.model.sde, self.model.t_min)
        of_centres = config.training.dequantization == "centre"
        x_0 = error_table.points(self.data, config.seed, of_centres)
        model = self.fast("eval", len(knots), len(x_0))
        if model.needs_class:
            model = model.labelled(self._one_class(config))
        calls = len(knots) * -(-len(x_0) // c.batch_size)
        with Progress("errors by time", calls, "call") as progress:
            found = error_table.measure(
                limited(config, model, self.data),
                model.sde,
                model.t_min,
                x_0,
                config.seed,
                c.batch_size,
                lambda: progress.advance(1),
            )
        self.folder.write_result("moments", {**found.as_result(), "settings": settings})
        return found

    def classifier(self) -> NoisyClassifier:
        """The run's classifier of noisy images; a RequestError if it has none of these data."""
        sde, t_min, data = self.model.sde, self.model.t_min, self.data
        of = digest(data.train, data.train_labels)
        bound = self.folder.bound
        config = self.known_to_classifier
        return load_classifier(self.folder.path, sde, t_min, data.train.device, of, bound, config)

    @property
    def known_to_classifier(self) -> Json:
        """What a classifier of noisy images is trained with: the process, and bound data."""
        held = frozen(flatten(self.folder.config))
        of_data = facts_of_data(self.folder.data) if self.folder.bound else {}
        part = {key: held[key] for key in held if key.startswith("sde.")}
        part |= {key: held[key] for key in ("training.t_min", "training.dequantization")}
        return part | {f"data.json: {key}": value for key, value in of_data.items()}

    def export(self, to: str, out: str | Path, weights: str = "ema") -> Path:
        """Write the network for other codebases.

        Args:
            to: "diffusers", a folder that its DDPMPipeline loads; or "safetensors", a file of our
                names.
            out: the new folder or file.
            weights: "ema" for the averaged ones, "raw" for the others.

        Raises:
            RequestError: the format cannot express the network, or `out` is there already.
        """
        if weights not in ("ema", "raw"):
            raise RequestError(f"weights must be ema or raw, got {weights!r}")
        model, step = self.weights("ema" if weights == "ema" else "model")
        tensors, event = model.network.state_dict(), tuple(self.like.train.shape[1:])
        config = assembly.in_units_of(Config.of(self.config), self.like)
        network = Exported(config, tensors, event, weights, step)
        return export(network, to, user_path(out, "out"))

    # ---- likelihood and latents -------------------------------------------------------------

    def log_likelihood(self, data: Tensor, /, **settings: Any) -> LogLikelihoods:  # noqa: ANN401
        """Exact log-likelihood of data by the probability-flow ODE.

        Args:
            data: images as integer levels (n, C, H, W), or vectors (n, D), like `run.data`.
            settings: any key of the `likelihood` section: probes, tolerance, seed, ...

        Raises:
            RequestError: they are not like the run's data, or a setting is wrong.
            RunError: the solver gave up on some of them.
        """
        _refuse_unread(settings, UNREAD_BY_LIKELIHOOD, "log_likelihood")
        config = self._with("likelihood", settings)
        of = replace(self.like, test=self.like.accept(data), test_labels=None, test_names=())
        model = asked_of(config, self.model, of)
        question, labels = build_question(config, model, of), labels_of(config, model, of)
        model = self.experiment.fast(model, "vjp", products_of(question, of), len(of.test))
        return LogLikelihoods.of(measure(model, of, 0, question, labels=labels))

    def classify(self, data: Tensor, by: str = "bound", **settings: Any) -> Posterior:  # noqa: ANN401
        """Classes of data by Bayes' rule from log p(x | class), of a run with classes.

        Args:
            data: as in `log_likelihood`.
            by: "bound", at random times; or "flow", exactly, as the `likelihood` section asks.
            settings: any other key of the `classify` section: times, prior, ...

        Raises:
            RequestError: the run has no classes, the data are not like its own, or a setting is
                wrong.
            RunError: a flow was not solved.
        """
        config = self._with("classify", {"by": by, **settings})
        accepted = self.data.accept(data)
        of = replace(self.data, test=accepted, test_labels=None, test_names=())
        return classification.posterior(config, self.model, of)

    def encode(
        self, data: Tensor, tolerance: float | None = None, model: ScoreModel | None = None
    ) -> Tensor:
        """Latents of data: the probability flow from t_min to N, float64, shaped like the data.

        Args:
            data: as in `log_likelihood`; levels stand at the centres of their bins.
            tolerance: of the ODE solver; None for sampling.tolerance.
            model: the same network asked about a class; None for `model`.
        """
        x, num_levels = self.like.accept(data), self.like.num_levels
        points = x if num_levels is None else centres(x, num_levels)
        return self._flowed("encode", points, tolerance, model)

    def decode(
        self, latents: Tensor, tolerance: float | None = None, levels: bool = True
    ) -> Tensor:
        """Data of latents: the inverse of `encode`, up to the solver's error.

        Args:
            latents: (n, ...) float64.
            tolerance: of the ODE solver; None for sampling.tolerance.
            levels: whether images come as integer levels, not as points of [-1, 1).
        """
        event = tuple(self.like.train.shape[1:])
        if tuple(latents.shape[1:]) != event or not latents.is_floating_point():
            sides = ", ".join(map(str, event))
            raise RequestError(
                f"latents must be floats (n, {sides}), got {tuple(latents.shape)} {latents.dtype}"
            )
        x = self._flowed("decode", latents, tolerance)
        return values_of(x, self.like) if levels else x

    def features(
        self,
        data: Tensor,
        layer: str,
        t: float = 0.0,
        **settings: Any,  # noqa: ANN401
    ) -> Tensor:
        """Activations of a layer of the averaged network at noisy data, or the flow's latents.

        Args:
            data: as in `log_likelihood`; levels stand at the centres of their bins.
            layer: its path in the network or its short name ("middle"), "x_0" for the estimate,
                "latent" for `encode`, or "pixels".
            t: time of the noisy data, in steps; 0 for the least.
            settings: any key of the `features` section: draws, seed, pool, label, ...

        Returns:
            (n, C) float32 on the CPU; (n, C, H, W) with pool="none", and of what is no module.

        Raises:
            RequestError: there is no such layer, t is out of range, or a setting is wrong.
        """
        _refuse_unread(settings, UNREAD_BY_FEATURES, "features")
        config = self._with("features", {"layer": layer, "t": t, **settings})
        values = self.like.accept(data)
        asked = features.build_asked(config, self.model, self.like)
        path = features.build_layer(config, features.build_layers(asked, self.like))
        if path == LATENT:
            return self.encode(values, model=asked.model).float().cpu()
        at = features.build_time(config.features.t, self.model)
        return activations(asked, values, at, (path,))[path]

    def _flowed(
        self, way: str, x: Tensor, tolerance: float | None, of: ScoreModel | None = None
    ) -> Tensor:
        c = self.config.sampling
        tolerance = c.tolerance if tolerance is None else tolerance
        flow = ProbabilityFlow(self.model.t_min, tolerance, c.method, c.max_evaluations)
        move, x = getattr(flow, way), x.to(self.like.train.device, torch.float64)
        solved = self.solved if of is None or of is self.model else of.for_solver()
        model = self.fast("eval", solver_evaluations(tolerance), len(x), solved)
        with out_of_evaluations():
            parts = [move(model, self.model.posed, part) for part in x.split(c.batch_size)]
        return torch.cat(parts)

    # ---- pictures, files and settings -------------------------------------------------------

    def picture(self, values: Tensor, columns: int = 8) -> Image.Image:
        """Samples or data as a picture, which a notebook shows when it ends a cell.

        Args:
            values: as in `save_grid`.
            columns: images a row, at least 1.
        """
        return Image.open(io.BytesIO(picture(values, self.like, columns)), formats=("PNG",))

    def save_grid(self, values: Tensor, path: str | Path) -> Path:
        """Write samples or data as a PNG: a grid of the first 64 images, or points in the plane.

        Args:
            values: levels or points (n, C, H, W), or vectors (n, D), as `sample` returns them.
            path: of the file.
        """
        if self.like.num_levels is not None and values.is_floating_point():
            values = values_of(values, self.like)
        path = user_path(path, "the picture")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, picture(values, self.like))
        return path

    def _with(self, section: str, settings: Json) -> ConfigDict:
        """The config with other values in a section, checked like a command line."""
        if not settings:
            return self.config
        keys = {f"{section}.{key}": value for key, value in settings.items()}
        config = resolve({**flatten(self.config.to_dict()), **keys}, "the call")
        refuse_idle(keys, flatten(config.to_dict()), section)
        return config


def _refuse_unread(settings: Json, unread: dict[str, str], call: str) -> None:
    """Refuse a setting that would have no effect on a call."""
    for key in settings:
        if key in unread:
            raise RequestError(f"{key} has no effect on {call}: {unread[key]}")
