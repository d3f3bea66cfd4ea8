"""Checkpoints for any PyTorch project: copy this folder. It needs torch and NumPy, and nothing of course_utils."""

from .durable import CheckpointError as CheckpointError
from .durable import whole_or_absent as whole_or_absent
from .facts import facts_of_data as facts_of_data
from .files import DamagedCheckpoint as DamagedCheckpoint
from .files import load_checkpoint as load_checkpoint
from .files import save_checkpoint as save_checkpoint
from .files import weights_sha256 as weights_sha256
from .folder import CheckpointFolder as CheckpointFolder
from .loop import Training as Training
from .rng import restore_rng as restore_rng
from .rng import rng_state as rng_state
from .stopping import Stopped as Stopped
