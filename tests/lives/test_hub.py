def test_smoke(hub, hub_client, sim_test, tmp_path):
    out = hub_client.ask(
        """
from singlelife.lives.hub import push_life
from singlelife.lives.prepared import PreparedLife
result = push_life(PreparedLife.load(life), "ann/sim", max_shard_size="1MB")
""",
        life=sim_test.path,
    )
    print(out)
    r = hub.repositories["dataset", "ann/sim"]
    print(r.commits[r.branches["main"]])
    print(hub.read(r, "README.md").decode())
    print(hub.read(r, "metadata.json").decode())
    out = hub_client.ask(
        """
from singlelife.lives.resolve import resolve_life
life = resolve_life("ann/sim", cache_dir=cache)
print(life.dataset, life.dataset.features, life.metadata, life.path, life.poses([0]))
""",
        cache=tmp_path,
    )
    print(out.said, out.error and out.error[2])
    out = hub_client.ask(
        """
from datasets import load_dataset
d = load_dataset("ann/sim")
print(d, d["train"].features, d["train"][3])
""",
        cache=tmp_path,
    )
    print(out.said, out.error and out.error[2])
    hub.sent = 0
    out = hub_client.ask(
        """
import pathlib
from singlelife.lives.peek import peek
print(peek("ann/sim", pathlib.Path(cache) / "x.png"))
""",
        cache=tmp_path,
    )
    print(out.said, out.error and out.error[2], hub.sent)
    import shutil

    shutil.copy(tmp_path / "x.png", "/tmp/w/cache-hub/x.png")
    print(hub.requests)
    assert 0
