"""The way to Debian's mirrors as the host's apt is told it."""

from __future__ import annotations

from stoker.image.archives import Archives, apt_environment, apt_logins
from stoker.image.lock import Deb

DUMP = """Acquire "";
Acquire::http::Proxy "http://cache.example:3142";
Acquire::https::Proxy "DIRECT";
Acquire::https::CaInfo "/etc/ssl/own.pem";
Acquire::Retries "3";
"""


def test_apts_proxies_come_before_the_environments() -> None:
    found = apt_environment({"HTTP_PROXY": "http://a.example", "https_proxy": "http://b.example", "HOME": "/h"}, DUMP)
    assert found == {"http_proxy": "http://cache.example:3142", "https_proxy": "", "CURL_CA_BUNDLE": "/etc/ssl/own.pem", "HOME": "/h"}


def test_without_a_word_from_apt_the_environment_stays() -> None:
    found = apt_environment({"HTTPS_PROXY": "http://a.example", "no_proxy": "x"}, 'Acquire "";\n')
    assert found == {"https_proxy": "http://a.example", "no_proxy": "x"}


def test_logins_are_read_as_apt_writes_them() -> None:
    text = """
    # a comment
    machine mirror.example login anna password s3cret
    machine https://other.example:8443/debian/
      login bert
      password geheim
    """
    assert apt_logins(text) == {"mirror.example": ("anna", "s3cret"), "other.example:8443": ("bert", "geheim")}


def test_a_package_lies_where_its_archive_is() -> None:
    archives = Archives(debian="http://a.example/debian", security="http://b.example/security")
    deb = Deb(name="x", version="1", architecture="amd64", file="pool/x_1+b1~2.deb", sha256="0" * 64, size=1, archive="security", variants=("cli",))
    assert archives.address(deb) == "http://b.example/security/pool/x_1+b1~2.deb"
