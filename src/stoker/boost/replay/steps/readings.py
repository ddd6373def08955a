"""Sources of torchvision's transforms that were read, by digest of each class's functions. Made by tools/refresh_transforms.py."""

from __future__ import annotations

CLASSES: dict[str, dict[str, str]] = {
    "v1.AutoAugment": {
        "f28146fee7f0eacd": "0.20.0 to 0.22.1",
        "f2b59ba70bbb8043": "0.23.0 to 0.29.2",
    },
    "v1.CenterCrop": {
        "5226b090c3f91ddb": "0.20.0 to 0.29.2",
    },
    "v1.ColorJitter": {
        "4522ec449ea00211": "0.20.0 to 0.22.1",
        "4d38ebb9ae0babda": "0.23.0 to 0.29.2",
    },
    "v1.Compose": {
        "8104bcfea39ddb03": "0.20.0 to 0.29.2",
    },
    "v1.ConvertImageDtype": {
        "811ee28214fa508b": "0.20.0 to 0.29.2",
    },
    "v1.GaussianBlur": {
        "09011c8b5b63e3ea": "0.20.0 to 0.29.2",
    },
    "v1.Grayscale": {
        "95885c6967d8454d": "0.20.0 to 0.29.2",
    },
    "v1.Lambda": {
        "b00bcd9971d0b4dd": "0.20.0 to 0.29.2",
    },
    "v1.Normalize": {
        "6ed7265342915ea7": "0.20.0 to 0.29.2",
    },
    "v1.PILToTensor": {
        "d062c6666b5c997f": "0.20.0 to 0.29.2",
    },
    "v1.Pad": {
        "4e7bfe94d85a2096": "0.20.0 to 0.29.2",
    },
    "v1.RandAugment": {
        "979d49ffdcb2f1f4": "0.20.0 to 0.22.1",
        "1495eb38c6e18623": "0.23.0 to 0.29.2",
    },
    "v1.RandomAdjustSharpness": {
        "8fd71850d7207138": "0.20.0 to 0.29.2",
    },
    "v1.RandomAffine": {
        "92cdef3757a02bb7": "0.20.0 to 0.22.1",
        "c5307ac1240ba68f": "0.23.0 to 0.29.2",
    },
    "v1.RandomApply": {
        "3bd35a19335140db": "0.20.0 to 0.29.2",
    },
    "v1.RandomAutocontrast": {
        "50c5e6c28bf8df38": "0.20.0 to 0.29.2",
    },
    "v1.RandomChoice": {
        "00caff7b389abece": "0.20.0 to 0.29.2",
    },
    "v1.RandomCrop": {
        "1fd767f1d72b8635": "0.20.0 to 0.22.1",
        "8dad3f50c5406501": "0.23.0 to 0.29.2",
    },
    "v1.RandomEqualize": {
        "dbdbfd5a55227480": "0.20.0 to 0.29.2",
    },
    "v1.RandomErasing": {
        "86feee256b33ad00": "0.20.0 to 0.22.1",
        "b0edeadcf19bbb2a": "0.23.0 to 0.29.2",
    },
    "v1.RandomGrayscale": {
        "4c388742b75cb317": "0.20.0 to 0.29.2",
    },
    "v1.RandomHorizontalFlip": {
        "bed01ac4c62b8aec": "0.20.0 to 0.29.2",
    },
    "v1.RandomInvert": {
        "09b820b352a75368": "0.20.0 to 0.29.2",
    },
    "v1.RandomOrder": {
        "2abbc9a3d9fbc1b5": "0.20.0 to 0.29.2",
    },
    "v1.RandomPosterize": {
        "0b56e1dda2f2e245": "0.20.0 to 0.29.2",
    },
    "v1.RandomResizedCrop": {
        "02cf82ccd3200aa9": "0.20.0 to 0.22.1",
        "1704dc7b9df6af45": "0.23.0 to 0.29.2",
    },
    "v1.RandomRotation": {
        "38672df8b45ab8a6": "0.20.0 to 0.22.1",
        "a78a6402a46171a4": "0.23.0 to 0.29.2",
    },
    "v1.RandomSolarize": {
        "fe75048cf7b1cbc3": "0.20.0 to 0.29.2",
    },
    "v1.RandomTransforms": {
        "b17c588a337ffc84": "0.20.0 to 0.29.2",
    },
    "v1.RandomVerticalFlip": {
        "2cd1f92edc1fd27f": "0.20.0 to 0.29.2",
    },
    "v1.Resize": {
        "e72e5454eb6b38f4": "0.20.0 to 0.29.2",
    },
    "v1.ToPILImage": {
        "53c3d31e4e34ae83": "0.20.0 to 0.29.2",
    },
    "v1.ToTensor": {
        "480287f922500082": "0.20.0 to 0.29.2",
    },
    "v1.TrivialAugmentWide": {
        "71dba50c4021d056": "0.20.0 to 0.22.1",
        "7408eba7d24c612c": "0.23.0 to 0.29.2",
    },
    "v2.CenterCrop": {
        "b3103cafaa807a06": "0.20.0 to 0.20.1",
        "641a514678db60ca": "0.21.0 to 0.22.1",
        "b4c712d3112cda11": "0.23.0 to 0.29.2",
    },
    "v2.ColorJitter": {
        "b63a96a80db90184": "0.20.0 to 0.20.1",
        "a09bbec812b32b71": "0.21.0 to 0.21.0",
        "da68fa9ab1f18e4d": "0.22.0 to 0.22.1",
        "2a1d1fac6bc03e2b": "0.23.0 to 0.26.0",
        "9b431380fd54c432": "0.27.0 to 0.29.2",
    },
    "v2.Compose": {
        "9b691ffc5ea7118c": "0.20.0 to 0.29.2",
    },
    "v2.ConvertImageDtype": {
        "4e0b5ecae269ef10": "0.20.0 to 0.20.1",
        "12b818eb776beb37": "0.21.0 to 0.22.1",
        "ec4b968829acf6b8": "0.23.0 to 0.29.2",
    },
    "v2.GaussianBlur": {
        "39ae70461b64d608": "0.20.0 to 0.20.1",
        "215d004c10e2b0e2": "0.21.0 to 0.22.1",
        "78c06c7d298d065c": "0.23.0 to 0.29.2",
    },
    "v2.Grayscale": {
        "9b5cd55cada8428c": "0.20.0 to 0.20.1",
        "b896f4f5e0c4d898": "0.21.0 to 0.22.1",
        "61f5fa486de6392e": "0.23.0 to 0.29.2",
    },
    "v2.Lambda": {
        "c399b43770bafd42": "0.20.0 to 0.20.1",
        "ab73e1de68c9f120": "0.21.0 to 0.22.1",
        "c0a5fb0ff14299fc": "0.23.0 to 0.29.2",
    },
    "v2.Normalize": {
        "5edbf06cbb41511a": "0.20.0 to 0.20.1",
        "0bf7e3f43b138854": "0.21.0 to 0.22.1",
        "82d28bba6931496f": "0.23.0 to 0.29.2",
    },
    "v2.PILToTensor": {
        "a564667208a9315e": "0.20.0 to 0.20.1",
        "9305c15b53d065a8": "0.21.0 to 0.22.1",
        "3c111f2d320d15c3": "0.23.0 to 0.29.2",
    },
    "v2.Pad": {
        "b2c04f4716b7c9e2": "0.20.0 to 0.20.1",
        "8770fc841c4794ef": "0.21.0 to 0.22.1",
        "bf730aeed0b91fc4": "0.23.0 to 0.29.2",
    },
    "v2.RGB": {
        "18174a7f2efb82a8": "0.20.0 to 0.20.1",
        "dcfaac593e96027f": "0.21.0 to 0.22.1",
        "ea6667f7de00c9c9": "0.23.0 to 0.29.2",
    },
    "v2.RandomAdjustSharpness": {
        "56561d23836aabca": "0.20.0 to 0.20.1",
        "aa11ba7b5a7efa20": "0.21.0 to 0.22.1",
        "8efe165a848c9701": "0.23.0 to 0.29.2",
    },
    "v2.RandomAffine": {
        "f0041ca9bc8515e8": "0.20.0 to 0.20.1",
        "25504ad59a66e245": "0.21.0 to 0.22.1",
        "c5091d750d6d307a": "0.23.0 to 0.26.0",
        "711e5d9acd3ca1af": "0.27.0 to 0.27.1",
        "bdc4719a847698f1": "0.28.0 to 0.29.2",
    },
    "v2.RandomApply": {
        "44cb1480babc6a6e": "0.20.0 to 0.23.0",
        "3aa114dd86ccc000": "0.24.0 to 0.29.2",
    },
    "v2.RandomAutocontrast": {
        "5a428015940856b2": "0.20.0 to 0.20.1",
        "b38018ffa36ec1f8": "0.21.0 to 0.22.1",
        "b8749bf1ca89bf28": "0.23.0 to 0.29.2",
    },
    "v2.RandomChoice": {
        "d823fc08fdeaab00": "0.20.0 to 0.22.1",
        "56749a66e254d77f": "0.23.0 to 0.23.0",
        "e5c3ce608027081c": "0.24.0 to 0.29.2",
    },
    "v2.RandomCrop": {
        "0b5d5ae20722ecc9": "0.20.0 to 0.20.1",
        "27c688887b358e43": "0.21.0 to 0.22.1",
        "5f1dcfe58cd39ee9": "0.23.0 to 0.29.2",
    },
    "v2.RandomEqualize": {
        "6815cde57adfa6e4": "0.20.0 to 0.20.1",
        "433f9ad752775fd4": "0.21.0 to 0.22.1",
        "366e763d7377b267": "0.23.0 to 0.29.2",
    },
    "v2.RandomErasing": {
        "3c3201a0c617ceee": "0.20.0 to 0.20.1",
        "711ea640ae85ca37": "0.21.0 to 0.22.1",
        "742d04a3a34f7a3a": "0.23.0 to 0.29.2",
    },
    "v2.RandomGrayscale": {
        "211a709a60a3e73d": "0.20.0 to 0.20.1",
        "b0088fdd7d5d708b": "0.21.0 to 0.22.1",
        "30714a8dc5401f20": "0.23.0 to 0.29.2",
    },
    "v2.RandomHorizontalFlip": {
        "45360d21bcc27d33": "0.20.0 to 0.20.1",
        "5f3d50656fa09f3f": "0.21.0 to 0.22.1",
        "153c1035d85f47db": "0.23.0 to 0.29.2",
    },
    "v2.RandomInvert": {
        "2b896385b6ce4357": "0.20.0 to 0.20.1",
        "c1108fee806d2816": "0.21.0 to 0.22.1",
        "7703a29f06983fde": "0.23.0 to 0.29.2",
    },
    "v2.RandomOrder": {
        "9df2580890d30a36": "0.20.0 to 0.23.0",
        "4392fda18017e505": "0.24.0 to 0.29.2",
    },
    "v2.RandomPosterize": {
        "4e720ee3c83b296a": "0.20.0 to 0.20.1",
        "e467fbe8da3de9c6": "0.21.0 to 0.22.1",
        "e2e938903a741328": "0.23.0 to 0.29.2",
    },
    "v2.RandomResizedCrop": {
        "e228f7b9d9631aa4": "0.20.0 to 0.20.1",
        "b11ab7dd53c1ae5b": "0.21.0 to 0.21.0",
        "d973671c13defde5": "0.22.0 to 0.22.1",
        "585677b978a26713": "0.23.0 to 0.27.1",
        "ba6a2290a5e37723": "0.28.0 to 0.29.2",
    },
    "v2.RandomRotation": {
        "bbf5b6d6ece58988": "0.20.0 to 0.20.1",
        "6c675ac00b12735f": "0.21.0 to 0.22.1",
        "7e1ebc478683821c": "0.23.0 to 0.27.1",
        "47d7a03c3303a387": "0.28.0 to 0.29.2",
    },
    "v2.RandomSolarize": {
        "1dfe0306a0e0f559": "0.20.0 to 0.20.1",
        "eb91fd312e48d8d9": "0.21.0 to 0.22.1",
        "7997e1bf1bf41411": "0.23.0 to 0.29.2",
    },
    "v2.RandomVerticalFlip": {
        "72034ad6c77aa57f": "0.20.0 to 0.20.1",
        "9dcde6569056a790": "0.21.0 to 0.22.1",
        "0177fbc653265e4c": "0.23.0 to 0.29.2",
    },
    "v2.Resize": {
        "cc239a20cf8bd23e": "0.20.0 to 0.20.1",
        "ddae38bc7a4d8f7a": "0.21.0 to 0.22.1",
        "c6548b6c6089b381": "0.23.0 to 0.27.1",
        "84c4adf365e60bce": "0.28.0 to 0.29.2",
    },
    "v2.ToDtype": {
        "2f708c95aa3c934f": "0.20.0 to 0.20.1",
        "c461d18fe87ba95c": "0.21.0 to 0.22.1",
        "cfe7e5e00ae84ec2": "0.23.0 to 0.29.2",
    },
    "v2.ToImage": {
        "31a2c27a56b62f76": "0.20.0 to 0.20.1",
        "8b49794eced8f5f8": "0.21.0 to 0.22.1",
        "71a1748b270e916e": "0.23.0 to 0.29.2",
    },
    "v2.ToPILImage": {
        "621aaad730a30696": "0.20.0 to 0.20.1",
        "f3107a9ee7355e3b": "0.21.0 to 0.22.1",
        "af5e1171b0a82ba6": "0.23.0 to 0.29.2",
    },
    "v2.ToPureTensor": {
        "596a75f6a68db670": "0.20.0 to 0.20.1",
        "a553c1302cde949e": "0.21.0 to 0.22.1",
        "adc965f6c116094e": "0.23.0 to 0.29.2",
    },
    "v2.ToTensor": {
        "daede0307d971615": "0.20.0 to 0.20.1",
        "529c5b227b8fa6ed": "0.21.0 to 0.22.1",
        "87213770d0307ad8": "0.23.0 to 0.29.2",
    },
    "v2.Transform": {
        "be569ea8e87f5f7a": "0.20.0 to 0.20.1",
        "eac9e0c4bfffefe1": "0.21.0 to 0.22.1",
        "855222176dbdb8ef": "0.23.0 to 0.29.2",
    },
    "v2._RandomApplyTransform": {
        "d13cef08a915ba4f": "0.20.0 to 0.20.1",
        "c30554e1f88225c9": "0.21.0 to 0.29.2",
    },
}
"""By family and class: digest, and the releases that have it. Source: the wheels on the package index, 2026-11-21."""
