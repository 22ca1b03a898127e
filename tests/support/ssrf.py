"""Ways to name a place that no job may call: what workers and the API must stand up to.

`authority` is what stands between // and the path. `address` and `port` are where that would lead, if it leads to
any place. `created` is the API's answer to a job with it: 422 where no job can name it or no setting opens it, 201 for
names and for what is closed only by the settings of workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# The world as tests/servers/netlab.py builds it.
PUBLIC = "93.184.216.34"
PUBLIC_NAME = "public.test"
NAME_SERVER = "93.184.216.53"
WORKER = "93.184.216.2"
WORKER_6 = "2606:2800:220:1::2"
DATABASE = "93.184.216.99"
PRIVATE = "10.9.9.9"
METADATA = "169.254.169.254"

NAMES: Mapping[str, tuple[str, ...]] = {
    PUBLIC_NAME: (PUBLIC,),
    "loopback.test": ("127.0.0.1",),
    "loopback6.test": ("::1",),
    "private.test": (PRIVATE,),
    "metadata.test": (METADATA,),
    "metadata.google.internal": (METADATA,),
    "instance-data": (METADATA,),
    "mapped.test": ("::ffff:127.0.0.1",),
    "nat64.test": ("64:ff9b::a9fe:a9fe",),
    "scoped.test": ("fe80::1",),
    "unspecified.test": ("0.0.0.0",),
    "several.test": (PRIVATE, "127.0.0.1", "::1", METADATA),
    "worker.test": (WORKER,),
    "worker6.test": (WORKER_6,),
    "database.test": (DATABASE,),
    "127.0.0.1.nip.test": ("127.0.0.1",),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One spelling."""

    authority: str
    address: str
    created: int
    port: int = 80

    def __str__(self) -> str:
        return self.authority


def _form(authority: str, address: str, created: int = 422, port: int = 80) -> Form:
    return Form(authority=authority, address=address, created=created, port=port)


_LOOPBACK = (
    _form("127.0.0.1", "127.0.0.1", 201),
    _form("127.255.255.254", "127.255.255.254", 201),
    _form("localhost", "127.0.0.1", 201),
    _form("LOCALHOST", "127.0.0.1", 201),
    _form("localhost.", "127.0.0.1", 201),
    _form("app.localhost", "127.0.0.1", 201),
    _form("[::1]", "::1", 201),
    _form("[0:0:0:0:0:0:0:1]", "::1", 201),
    _form("[0000:0000:0000:0000:0000:0000:0000:0001]", "::1", 201),
    *(
        _form(spelling, "127.0.0.1")
        for spelling in (
            "127.1",
            "127.0.1",
            "127.0.0.1.",
            "127.0.0.01",
            "2130706433",
            "0x7f000001",
            "0x7F.1",
            "0x7f.0x0.0x0.0x1",
            "0177.0.0.1",
            "0177.1",
            "017700000001",
            "00000000177.0.0.1",
            "\uff11\uff12\uff17.0.0.1",
            "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
            "127\u30020\u30020\u30021",
            "127\uff0e0\uff0e0\uff0e1",
            "\u217c\u2134calhost",
            "local\u00adhost",
            "%31%32%37.0.0.1",
            "127.0.0.1%00.public.test",
            "127.0.0.1\x00",
            "127.0.0.1\t",
        )
    ),
    *(_form(spelling, "0.0.0.0") for spelling in ("0", "0.0.0.0", "0x0", "00", "[::]", "[::0]")),
)
_EMBEDDED = tuple(
    _form(spelling, "::ffff:127.0.0.1")
    for spelling in (
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "[::127.0.0.1]",
        "[::7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "[2606:4700::5efe:127.0.0.1]",
        "[fe80::5efe:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
    )
)
_METADATA = (
    *(
        _form(spelling, METADATA)
        for spelling in ("169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518")
    ),
    *(
        _form(address, address)
        for address in ("169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "169.254.42.42")
    ),
    *(_form(f"[{address}]", address) for address in ("fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe")),
)
_PRIVATE = (
    *(
        _form(address, address, 201)
        for address in (
            PRIVATE,
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "203.0.113.1",
            "240.0.0.1",
        )
    ),
    *(_form(f"[{address}]", address, 201) for address in ("fc00::1", "fd12::1", "fec0::1", "2001:db8::1", "100::1")),
    *(_form(address, address) for address in ("0.1.2.3", "224.0.0.1", "255.255.255.255", "192.88.99.1")),
    _form("[ff02::1]", "ff02::1"),
    _form("[fe80::1]", "fe80::1"),
    _form("[fe80::1%25lo]", "fe80::1"),
    _form("[fe80::1%lo]", "fe80::1"),
    _form("168364297", PRIVATE),
)
_OURS = (
    _form(WORKER, WORKER, 201),
    _form(f"[{WORKER_6}]", WORKER_6, 201),
    _form(f"{DATABASE}:5433", DATABASE, 201, 5433),
    _form("database.test:5433", DATABASE, 201, 5433),
    _form("127.0.0.1:5433", "127.0.0.1", 201, 5433),
)
_NAMED = tuple(
    _form(name, addresses[0], 201) for name, addresses in NAMES.items() if name not in (PUBLIC_NAME, "database.test")
)
_PORTS = (
    *(_form(f"{PUBLIC_NAME}:{port}", PUBLIC, 201, port) for port in (22, 23, 25, 53, 6379, 11211, 27017)),
    _form(f"{PUBLIC}:6379", PUBLIC, 201, 6379),
    _form(f"{PUBLIC_NAME}:0", PUBLIC, 422, 0),
    _form(f"{PUBLIC_NAME}:65616", "127.0.0.1"),  # 80 after an overflow
)
_TRICKS = tuple(
    _form(authority, "127.0.0.1")
    for authority in (
        f"{PUBLIC_NAME}@127.0.0.1",
        f"{PUBLIC_NAME}:80@127.0.0.1",
        f"127.0.0.1:80\\@{PUBLIC_NAME}",
        f"{PUBLIC_NAME}\\@127.0.0.1",
        f"{PUBLIC_NAME}%40127.0.0.1",
        f"{PUBLIC_NAME} @127.0.0.1",
        f"127.0.0.1:80:@{PUBLIC_NAME}",
        f"[::1]{PUBLIC_NAME}",
        "[127.0.0.1]",
        "127.0.0.1:",
        "127.0.0.1,public.test",
        "127.0.0.1;public.test",
        "127.0.0.1\r\nHost: public.test",
        "127.0.0.1&public.test",
        "(127.0.0.1)",
    )
)

FORMS = (*_LOOPBACK, *_EMBEDDED, *_METADATA, *_PRIVATE, *_OURS, *_NAMED, *_PORTS, *_TRICKS)
# Where a name may come to lead between two looks at it.
CLOSED = tuple(dict.fromkeys(form.address for form in FORMS if form.address not in (PUBLIC, DATABASE)))
