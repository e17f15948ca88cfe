"""From a run folder to one page: what was trained, what it scores, what it sees.

Reads files alone: no torch, no network, no model.
"""

from cag_uda.report.comparison import write_comparison
from cag_uda.report.page import write_report
from cag_uda.report.suggestions import write_suggestions

__all__ = ["write_comparison", "write_report", "write_suggestions"]
