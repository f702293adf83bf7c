//! Several hosts on one machine: network namespaces on one switch, behind links of 1 Gbit/s, and of 0.5 ms
//! where the kernel has netem.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longer names of interfaces are refused; names of namespaces are made of the same parts.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Namespaces of this process; removed when dropped.
pub struct Network {
    prefix: String,
    namespaces: Vec<String>,
    /// What the links do.
    pub shaping: &'static str,
}

impl Network {
    /// `hosts` namespaces with the addresses 10.77.0.1, 10.77.0.2, ...; `Err` says why this machine allows none.
    pub fn new(hosts: usize) -> Result<Self, String> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("onw{}x{number}", std::process::id());
        let mut network = Self { namespaces: Vec::new(), shaping: "", prefix };
        let switch = network.namespace("s")?;
        ip(&["-n", &switch, "link", "add", "name", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for host in 1..=hosts {
            let namespace = network.namespace(&host.to_string())?;
            let port = format!("p{host}");
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", namespace.as_str()];
            ip(&[&["-n", &switch, "link", "add", "name", port.as_str()][..], &peer].concat())?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &namespace, "addr", "add", &format!("{}/24", Self::address(host)), "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            network.shaping = shape(&namespace)?;
        }
        Ok(network)
    }

    /// The address of host `number`, from 1 on.
    pub fn address(number: usize) -> String {
        format!("10.77.0.{number}")
    }

    /// The namespace of host `number`, from 1 on.
    pub fn of(&self, number: usize) -> &str {
        &self.namespaces[number]
    }

    /// Moves the calling thread, and all that it starts from now on, into the namespace of a host.
    pub fn enter(&self, number: usize) {
        let namespace = File::open(format!("/run/netns/{}", self.of(number))).expect("a namespace");
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
            .expect("a thread may enter a namespace that this process made");
    }

    /// From now on nothing reaches a host that it did not ask for.
    #[allow(dead_code, reason = "benches have no firewall")]
    pub fn drop_inbound(&self, number: usize) -> Result<(), String> {
        let rules = "table inet onward {
            chain input {
                type filter hook input priority 0; policy drop;
                iif lo accept
                ct state established,related accept
            }
        }";
        run(Command::new("ip").args(["netns", "exec", self.of(number), "nft", rules]))
            .map_err(|why| format!("{why}; apt-get install nftables"))
    }

    fn namespace(&mut self, name: &str) -> Result<String, String> {
        let namespace = format!("{}-{name}", self.prefix);
        ip(&["netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // Links go with their namespaces; an error leaves what the next look at `ip netns` shows.
            if let Err(error) = ip(&["netns", "del", namespace]) {
                eprintln!("a network namespace is left: {error}");
            }
        }
    }
}

/// Makes the link slow. Not every kernel has netem, which alone can delay; the rate is then tbf's.
fn shape(namespace: &str) -> Result<&'static str, String> {
    let add = |qdisc: &[&str]| {
        run(Command::new("tc").args(["-n", namespace, "qdisc", "add", "dev", "eth0", "root"]).args(qdisc))
    };
    if add(&["netem", "delay", "0.5ms", "rate", "1gbit", "limit", "10000"]).is_ok() {
        return Ok("1 Gbit/s and 0.5 ms each way (netem)");
    }
    add(&["tbf", "rate", "1gbit", "burst", "256k", "latency", "20ms"])?;
    Ok("1 Gbit/s (tbf); this kernel has no netem, so nothing is delayed")
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<(), String> {
    let ran = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}
