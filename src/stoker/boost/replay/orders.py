"""The functions of PyTorch's DataLoader whose order replay knows, by the hash of their source. Written by tools/refresh_orders.py."""

from __future__ import annotations

ORDERS: dict[str, dict[str, str]] = {
    "torch.utils.data.dataloader:_DatasetKind.create_fetcher": {
        "b41c2dbca84a6865": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:DataLoader.__iter__": {
        "d9fb231a87542016": "2.5.0 to 2.7.1",
        "352f2d8b611579e8": "2.8.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:DataLoader._get_iterator": {
        "c3707777aabc0104": "2.5.0 to 2.7.1",
        "f2801cd05af5845b": "2.8.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:DataLoader._auto_collation": {
        "ad46f297c3d16e07": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:DataLoader._index_sampler": {
        "23da09cd93d0aaa8": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_BaseDataLoaderIter.__init__": {
        "b65b2165bbe50f2e": "2.5.0 to 2.6.0",
        "043a398ca2d62dcc": "2.7.0 to 2.8.0",
        "29e7946491ef583b": "2.9.0 to 2.9.1",
        "3c072ceeb10f34d1": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_BaseDataLoaderIter._reset": {
        "b1f6b564b052fc39": "2.5.0 to 2.9.1",
        "670d220a42d8d6eb": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_BaseDataLoaderIter._next_index": {
        "c734a74e67ea0be6": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_BaseDataLoaderIter.__next__": {
        "e4a0a34f94a4864b": "2.5.0 to 2.9.1",
        "263bafdea52a9890": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_SingleProcessDataLoaderIter.__init__": {
        "67c3aaf5c2e2c741": "2.5.0 to 2.9.1",
        "1c48728c9e1721f6": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_SingleProcessDataLoaderIter._next_data": {
        "a0ad7cfd72f5ba19": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter.__init__": {
        "30310b82ab0bd170": "2.5.0 to 2.5.1",
        "d4a70c54068b19bc": "2.6.0",
        "607dd6ede487f05e": "2.7.0 to 2.8.0",
        "1b0d68e60fd635ce": "2.9.0 to 2.9.1",
        "fb76731c0d113647": "2.10.0 to 2.12.1",
        "1b8bd68812b6588e": "2.13.0",
        "c70b74c5ef56eaf5": "2.14.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._reset": {
        "0a49b2644c3d3229": "2.5.0 to 2.6.0",
        "a11df3898ae27807": "2.7.0 to 2.9.1",
        "d0c2963203fb1d34": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._next_data": {
        "85c06f5d8fa698ed": "2.5.0 to 2.5.1",
        "bcd23913e365c2f0": "2.6.0",
        "c1545d6a3b0865b4": "2.7.0 to 2.9.1",
        "99fce4e59c9d0022": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._try_put_index": {
        "a7ad797590e27583": "2.5.0 to 2.6.0",
        "84b9f0b5a286ed95": "2.7.0 to 2.9.1",
        "6bdbf5d7f7f25b76": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._process_data": {
        "62150cba636069ad": "2.5.0 to 2.5.1",
        "cb16d912f2407a5d": "2.6.0",
        "858ad01107cc4f53": "2.7.0 to 2.15.0",
    },
    "torch.utils.data._utils.worker:_generate_state": {
        "bd8d1857411c3710": "2.5.0 to 2.15.0",
    },
    "torch.utils.data._utils.worker:_worker_loop": {
        "2473e0acfb872db5": "2.5.0 to 2.9.1",
        "2c5f96b1333aea61": "2.10.0 to 2.13.0",
        "3894d5bfc625b977": "2.14.0 to 2.15.0",
    },
    "torch.utils.data._utils.worker:get_worker_info": {
        "52f89ce0163ea244": "2.5.0 to 2.9.1",
        "76d6250e3aa298c6": "2.10.0 to 2.15.0",
    },
    "torch.utils.data._utils.fetch:_BaseDatasetFetcher.__init__": {
        "d9ebb2dc2481420b": "2.5.0 to 2.9.1",
        "f8abc85cfc32f812": "2.10.0 to 2.15.0",
    },
    "torch.utils.data._utils.fetch:_MapDatasetFetcher.fetch": {
        "a928fb6465b55a43": "2.5.0 to 2.15.0",
    },
    "torch.utils.data._utils.collate:collate": {
        "6428b85afc5b51fb": "2.5.0 to 2.6.0",
        "bdc5c956ad555c7d": "2.7.0 to 2.9.1",
        "63281ae9b023161c": "2.10.0 to 2.15.0",
    },
    "torch.utils.data._utils.collate:collate_tensor_fn": {
        "43494ec1a24b465d": "2.5.0 to 2.6.0",
        "ae0fc062cefeb8de": "2.7.0 to 2.9.1",
        "786ab964ccc32286": "2.10.0 to 2.15.0",
    },
    "torch.utils.data._utils.collate:collate_float_fn": {
        "a8eb649b1498f995": "2.5.0 to 2.6.0",
        "be21655a3408e829": "2.7.0 to 2.9.1",
        "35b26d176ac95505": "2.10.0 to 2.15.0",
    },
    "torch.utils.data._utils.collate:collate_int_fn": {
        "55d2cac857575c3c": "2.5.0 to 2.6.0",
        "6f1f4ca407d27cf1": "2.7.0 to 2.9.1",
        "4b1fb23cb3cccea3": "2.10.0 to 2.15.0",
    },
    "torch.utils.data._utils.collate:default_collate": {
        "620dfe8edf1e093f": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.sampler:SequentialSampler.__iter__": {
        "da0bf0884c73b66b": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.sampler:RandomSampler.num_samples": {
        "fc75baf40f03882f": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.sampler:RandomSampler.__iter__": {
        "572a845e2c4a537e": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.sampler:SubsetRandomSampler.__iter__": {
        "6edc454eb8ec2717": "2.5.0 to 2.7.1",
        "79e222cbd8768e1f": "2.8.0 to 2.15.0",
    },
    "torch.utils.data.sampler:WeightedRandomSampler.__iter__": {
        "679d6646e5303d97": "2.5.0 to 2.15.0",
    },
    "torch.utils.data.sampler:BatchSampler.__iter__": {
        "4ed46e9a36a65b96": "2.5.0 to 2.5.1",
        "c8f2be8e0f894d64": "2.6.0",
        "31293b129894be6e": "2.7.0 to 2.9.1",
        "f86062aa4bfd7f01": "2.10.0 to 2.15.0",
    },
    "torch.utils.data.distributed:DistributedSampler.__iter__": {
        "b6b373d149867897": "2.5.0 to 2.9.1",
        "65fcac91f4b4fee7": "2.10.0 to 2.15.0",
    },
}
"""By name: hash -> the releases that have it, from the first to the last that was read."""
