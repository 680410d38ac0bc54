//! Which addresses are of the public internet. Everything else is somebody's own: this machine, its network, the cloud that it stands in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Special ranges of IPv4, by first address and length of the prefix: the registry of RFC 6890, and multicast.
const SPECIAL_V4: [([u8; 4], u32); 17] = [
    ([0, 0, 0, 0], 8),          // this network
    ([10, 0, 0, 0], 8),         // private
    ([100, 64, 0, 0], 10),      // behind a carrier's NAT; Alibaba's metadata
    ([127, 0, 0, 0], 8),        // this machine
    ([168, 63, 129, 16], 32),   // Azure's platform, on an address that looks public
    ([169, 254, 0, 0], 16),     // link; every other cloud's metadata
    ([172, 16, 0, 0], 12),      // private
    ([192, 0, 0, 0], 24),       // protocols; Oracle's metadata
    ([192, 0, 2, 0], 24),       // documentation
    ([192, 88, 99, 0], 24),     // relays of 6to4
    ([192, 168, 0, 0], 16),     // private
    ([198, 18, 0, 0], 15),      // benchmarks
    ([198, 51, 100, 0], 24),    // documentation
    ([203, 0, 113, 0], 24),     // documentation
    ([224, 0, 0, 0], 4),        // multicast
    ([240, 0, 0, 0], 4),        // reserved
    ([255, 255, 255, 255], 32), // broadcast
];

/// Ranges inside 2000::/3 that are not of the public internet.
const SPECIAL_V6: [([u16; 8], u32); 4] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),     // protocols; Teredo
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),     // 6to4: any IPv4 address may be inside
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),     // documentation
];

/// The one prefix under which IPv4 addresses are reached from networks without IPv4 (RFC 6052).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// Whether an address is of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = u32::from(address);
    !SPECIAL_V4.iter().any(|(first, length)| (bits ^ u32::from(Ipv4Addr::from(*first))) >> (32 - length) == 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let inner = |[.., high, low]: [u16; 8]| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    if segments[..6] == NAT64 {
        return is_public_v4(inner(segments));
    }
    // What is global is in 2000::/3, and nothing else is known to be.
    let bits = u128::from(address);
    let special = |(first, length): &([u16; 8], u32)| {
        let first = u128::from(Ipv6Addr::from(*first));
        (bits ^ first) >> (128 - length) == 0
    };
    segments[0] >> 13 == 1 && !SPECIAL_V6.iter().any(special)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.15",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
            "::ffff:1.1.1.1",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200", // metadata of Alibaba
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",   // Azure
            "169.254.169.254", // metadata of nearly everybody
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192", // metadata of Oracle
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1", // IPv4-compatible
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1", // translated
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1", // Teredo
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254", // metadata of AWS
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().expect(private)), "{private}");
        }
    }

    #[test]
    fn ranges_begin_where_they_say() {
        for (first, length) in SPECIAL_V4 {
            let bits = u32::from(Ipv4Addr::from(first));
            assert_eq!(bits.checked_shl(length).unwrap_or(0), 0, "{first:?}/{length}");
            assert!(!is_public_v4(Ipv4Addr::from(first)));
        }
        for (first, length) in SPECIAL_V6 {
            assert_eq!(u128::from(Ipv6Addr::from(first)) << length, 0, "{first:?}/{length}");
            assert!(!is_public_v6(Ipv6Addr::from(first)));
        }
    }
}
