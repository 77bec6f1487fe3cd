from .draw import draw as draw
from .pictures import PICTURES as PICTURES
