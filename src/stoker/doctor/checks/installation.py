"""How a driver is installed on each distribution, and why one that is installed is not loaded."""

from __future__ import annotations

from stoker.doctor.checks.grounds import log_lines
from stoker.doctor.facts import Facts

# A word of the distribution's name -> the whole driver, its libraries alone. Sources: their own manuals, NVIDIA Driver Installation Guide.
_COMMANDS = (
    ("ubuntu", "sudo ubuntu-drivers install && sudo reboot", "sudo ubuntu-drivers install"),
    ("mint", "sudo ubuntu-drivers install && sudo reboot", "sudo ubuntu-drivers install"),
    (
        "debian",
        "sudo apt install -y linux-headers-$(uname -r) nvidia-driver && sudo reboot   # from contrib non-free non-free-firmware",
        "sudo apt install -y libcuda1 nvidia-smi   # of the version of the kernel module",
    ),
    (
        "fedora",
        "sudo dnf install -y akmod-nvidia xorg-x11-drv-nvidia-cuda && sudo reboot   # from RPM Fusion",
        "sudo dnf install -y xorg-x11-drv-nvidia-cuda   # from RPM Fusion",
    ),
    ("arch", "sudo pacman -S nvidia-open nvidia-utils && sudo reboot", "sudo pacman -S nvidia-utils"),
)
_RED_HAT = ("red hat", "rhel", "rocky", "alma", "centos", "oracle", "amazon")
# What the kernel (and modprobe) say of a module without a trusted signature. Source: kernel/module/signing.c, security/lockdown.
REFUSED = r"rejected by service|\bmodule\b.* is rejected|unsigned module"
_GUIDE = "install the driver as https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/ says for this distribution, then restart"


def driver_commands(os_name: str | None, *, libraries_only: bool = False) -> str:
    """Return the commands that install the driver on a distribution, or its libraries alone."""
    name = (os_name or "").lower()
    for word, whole, libraries in _COMMANDS:
        if word in name:
            return libraries if libraries_only else whole
    if any(word in name for word in _RED_HAT):
        if libraries_only:
            return "sudo dnf install -y nvidia-driver-cuda   # from NVIDIA's repository"
        return "sudo dnf install -y kernel-devel-$(uname -r) nvidia-open && sudo reboot   # from NVIDIA's repository"
    return _GUIDE


def why_not_loaded(facts: Facts) -> tuple[str, str]:
    """Return why no driver is loaded, and the commands that help."""
    driver = facts.driver
    installed = ", ".join(driver.packages[:4])
    if driver.module_files and (driver.secure_boot or log_lines(facts, REFUSED)):
        return "Secure Boot refuses its kernel module, which has no signature that this machine trusts", _secure_boot_fix(facts)
    if driver.nouveau and driver.module_files:
        return f"nouveau holds the card, though {installed or 'the driver'} is installed", _nouveau_fix(facts)
    if driver.nouveau and not driver.packages and not driver.module_other_kernels:
        return "nouveau holds the card, and NVIDIA's driver is not installed", driver_commands(facts.system.os)
    if driver.module_files:
        return (
            "its kernel module is there but not loaded",
            "sudo modprobe nvidia; sudo dmesg | grep -i nvidia | tail   # the log says why, if it is refused",
        )
    if driver.module_other_kernels or driver.packages:
        others = ", ".join(driver.module_other_kernels)
        built = f"was built for kernel {others}" if others else f"was not built ({installed} is installed)"
        return f"its kernel module {built}, not for {facts.system.kernel or 'the kernel that runs'}", _build_fix(facts)
    return "none is installed", driver_commands(facts.system.os)


def _secure_boot_fix(facts: Facts) -> str:
    if any(word in (facts.system.os or "").lower() for word in ("ubuntu", "mint")):
        return "sudo update-secureboot-policy --enroll-key && sudo reboot   # then choose 'Enroll MOK' on the blue screen"
    return "sudo mokutil --import /var/lib/dkms/mok.pub && sudo reboot   # then choose 'Enroll MOK'; or turn Secure Boot off in the firmware"


def _nouveau_fix(facts: Facts) -> str:
    image = (
        "sudo update-initramfs -u" if any(word in (facts.system.os or "").lower() for word in ("ubuntu", "debian", "mint")) else "sudo dracut --force"
    )
    return f"printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' | sudo tee /etc/modprobe.d/no-nouveau.conf && {image} && sudo reboot"


def _build_fix(facts: Facts) -> str:
    if any(word in (facts.system.os or "").lower() for word in ("ubuntu", "debian", "mint")):
        return "sudo apt install -y linux-headers-$(uname -r) && sudo dkms autoinstall && sudo modprobe nvidia"
    if any(package.startswith(("akmod-", "kmod-")) for package in facts.driver.packages):
        return "sudo dnf install -y kernel-devel-$(uname -r) && sudo akmods --force && sudo reboot"
    return "sudo dnf install -y kernel-devel-$(uname -r) && sudo dkms autoinstall && sudo modprobe nvidia"
