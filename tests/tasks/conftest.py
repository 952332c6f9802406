import warnings

import pytest

with warnings.catch_warnings():  # the tested matplotlib uses names that pyparsing has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure


@pytest.fixture
def axes():
    """Axes of a figure that is drawn once at the end, so that faulty artists raise."""
    figure = Figure()
    yield figure.subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        FigureCanvasAgg(figure).draw()
