"""Build objects from a config.

A config is a ConfigDict, whose keys, types and ranges `scoreflow.schema` checks, or a
`schema.config.Config`, its frozen form; every function here takes either. Each name in it is
looked up in a dictionary and refused with the names that there are, before any work.
"""

from scoreflow.factory.assembly import (
    Experiment,
    build_data,
    build_sde,
    experiment,
)
from scoreflow.factory.choose import choose
from scoreflow.factory.editing import build_control, build_flow_plan
from scoreflow.factory.evaluation import build_judge
from scoreflow.factory.guidance import build_guidance
from scoreflow.factory.likelihood import build_question, build_solver, try_solver
from scoreflow.factory.model import build_model, build_network
from scoreflow.factory.sampling import (
    COMPARED,
    HIGH_ORDER,
    SAMPLERS,
    build_drawing,
    high_order,
    limited,
    needs_moments,
)
from scoreflow.factory.training import (
    build_classifying,
    build_objective,
    build_training,
    choose_precision,
    compiled,
    remark,
)
from scoreflow.generation.edit_plan import EditPlan
from scoreflow.generation.plan import Guidance, SamplingPlan
from scoreflow.runtime.device import build_device

__all__ = [
    "COMPARED",
    "HIGH_ORDER",
    "SAMPLERS",
    "EditPlan",
    "Experiment",
    "Guidance",
    "SamplingPlan",
    "build_classifying",
    "build_control",
    "build_data",
    "build_device",
    "build_drawing",
    "build_flow_plan",
    "build_guidance",
    "build_judge",
    "build_model",
    "build_network",
    "build_objective",
    "build_question",
    "build_sde",
    "build_solver",
    "build_training",
    "choose",
    "choose_precision",
    "compiled",
    "experiment",
    "high_order",
    "limited",
    "needs_moments",
    "remark",
    "try_solver",
]
