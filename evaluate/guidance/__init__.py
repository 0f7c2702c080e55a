"""The text guidance of a head on a split: how sharp it is, and the temperature that suits the features."""
