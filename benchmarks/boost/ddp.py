"""Two ranks under torchrun with gloo: DistributedSampler, DistributedDataParallel, a loader with a worker in each; rank 0 prints for both."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from _wild import arguments, say_end, small_cnn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import transforms
from torchvision.datasets import CIFAR10


def main():
    args = arguments()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    torch.manual_seed(rank)
    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    dataset = CIFAR10(args.data, train=True, transform=augment)
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=32, sampler=sampler, num_workers=1)
    model = DistributedDataParallel(small_cnn())
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            both = [torch.zeros(()), torch.zeros(())]
            dist.all_gather(both, loss.detach())
            if rank == 0:
                print("losses", *(value.item().hex() for value in both))
    if rank == 0:
        say_end(model)
    dist.barrier()  # without it gloo aborts now and then where one rank goes before the other
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
