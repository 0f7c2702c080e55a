"""The report of an evaluation: one self-contained HTML file, and its plots as files for papers."""

REPORT_FILE = "report.html"
PLOTS_FOLDER = "plots"
PLOT_NAMES = ("cmc", "ranks", "scores", "variance", "hubs", "training", "by-kind", "by-words", "by-seconds")
PLOT_FORMATS = ("png", "svg")
PLOT_FILES = tuple(f"{PLOTS_FOLDER}/{name}.{form}" for name in PLOT_NAMES for form in PLOT_FORMATS)
