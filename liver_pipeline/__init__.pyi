from .bundle.compose import compose as compose
from .commands.check import check as check
from .commands.compare import compare as compare
from .commands.evaluate import evaluate as evaluate
from .commands.export import export as export
from .commands.plan import plan as plan
from .commands.predict import predict as predict
from .commands.status import status as status
from .commands.train import train as train
from .commands.view import view as view
from .evaluation.description import describe as describe
from .io.findings import IntakeError as IntakeError
from .io.volumes import Scan as Scan
from .io.volumes import read_label_map as read_label_map
from .io.volumes import read_scan as read_scan
from .io.volumes import write_label_map as write_label_map
from .prediction.segmenter import Segmentation as Segmentation
from .prediction.segmenter import load_segmenter as load_segmenter

__version__: str
