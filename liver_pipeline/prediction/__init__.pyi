from .case_runner import CaseRunner as CaseRunner
from .folder_run import FolderRun as FolderRun
from .plan import find_scans as find_scans
