"""--mode classifier: train a classifier of noisy images on the run's process."""

from scoreflow.models.classifier import NoisyClassifier
from scoreflow.storage.checkpoint_file import write_state
from scoreflow.storage.run_folder import RunDir
from scoreflow.training.classifier_trainer import FILE


def save_classifier(run: RunDir, model: NoisyClassifier) -> None:
    """Write DIR/classifier.pt and its hash, in the place of what was there."""
    network = model.network
    state = {
        "shape": list(network.shape),
        "num_classes": network.num_classes,
        "width": network.width,
        "network": network.state_dict(),
    }
    write_state(run.path / FILE, state)
