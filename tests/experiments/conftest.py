import pytest
from experiments_small import SMALL


@pytest.fixture
def small():
    return SMALL
