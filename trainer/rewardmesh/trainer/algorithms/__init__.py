"""Training algorithms, one module each, found by name: adding one is a file here and its test."""

from rewardmesh.trainer.algorithms._base import Algorithm, AlgorithmConfig, LossOutput, algorithm_config, known_algorithms, load_algorithm

__all__ = ["Algorithm", "AlgorithmConfig", "LossOutput", "algorithm_config", "known_algorithms", "load_algorithm"]
