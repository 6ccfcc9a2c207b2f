"""`python -m rewardmesh.engine.native`: compile beside the sources, for an image whose machines have no compiler."""

from rewardmesh.engine.native.library import bring_along

if __name__ == "__main__":
    for path in bring_along():
        print(path)
