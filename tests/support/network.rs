//! Several hosts on one machine: network namespaces on one switch, behind links of 1 Gbit/s and 0.5 ms. Where the kernel has no
//! netem, a switch of our own delays (`tests/python/switch.py`).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longer names of interfaces are refused; names of namespaces are made of the same parts.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Namespaces of this process; removed when dropped.
pub struct Network {
    prefix: String,
    namespaces: Vec<String>,
    /// Ends with its standard input.
    switch: Option<Child>,
    /// What the links do.
    pub shaping: &'static str,
}

impl Network {
    /// `hosts` namespaces with the addresses 10.77.0.1, 10.77.0.2, ...; `Err` says why this machine allows none.
    pub fn new(hosts: usize) -> Result<Self, String> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("onw{}x{number}", std::process::id());
        let mut network = Self { namespaces: Vec::new(), switch: None, shaping: "", prefix };
        let bridge = network.namespace("s")?;
        for host in 1..=hosts {
            network.namespace(&host.to_string())?;
        }
        match has_netem(&bridge) {
            true => network.connect_bridge(&bridge)?,
            false => network.connect_switch()?,
        }
        Ok(network)
    }

    /// Virtual cables to a bridge, slowed by the kernel.
    fn connect_bridge(&mut self, bridge: &str) -> Result<(), String> {
        ip(&["-n", bridge, "link", "add", "name", "br0", "type", "bridge"])?;
        ip(&["-n", bridge, "link", "set", "br0", "up"])?;
        for (host, namespace) in self.namespaces.iter().enumerate().skip(1) {
            let port = format!("p{host}");
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", namespace.as_str()];
            ip(&[&["-n", bridge, "link", "add", "name", port.as_str()][..], &peer].concat())?;
            ip(&["-n", bridge, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", namespace, "addr", "add", &format!("{}/24", Self::address(host)), "dev", "eth0"])?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
            add_netem(namespace)?;
        }
        self.shaping = "1 Gbit/s and 0.5 ms each way (netem)";
        Ok(())
    }

    /// A process that carries frames and takes its time.
    fn connect_switch(&mut self) -> Result<(), String> {
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("../python/switch.py"), "1e9", "0.0005"]).args(&self.namespaces[1..]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let switch = self.switch.insert(command.spawn().map_err(|error| format!("{command:?}: {error}"))?);
        let mut ready = String::new();
        let said = switch.stdout.take().map(|said| BufReader::new(said).read_line(&mut ready));
        if !matches!(said, Some(Ok(_))) || ready.trim() != "ready" {
            return Err("switch.py made no devices: see its error above".to_owned());
        }
        for (host, namespace) in self.namespaces.iter().enumerate().skip(1) {
            ip(&["-n", namespace, "addr", "add", &format!("{}/24", Self::address(host)), "dev", "eth0"])?;
            // Frames as large as they may be: fewer of them for a program in Python.
            ip(&["-n", namespace, "link", "set", "eth0", "mtu", "65000", "up"])?;
        }
        self.shaping = "1 Gbit/s and 0.5 ms each way (switch.py: this kernel has no netem)";
        Ok(())
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
        if let Some(mut switch) = self.switch.take() {
            drop(switch.stdin.take());
            // It is a child of this process.
            let _ = switch.wait();
        }
        for namespace in &self.namespaces {
            // Links go with their namespaces; an error leaves what the next look at `ip netns` shows.
            if let Err(error) = ip(&["netns", "del", namespace]) {
                eprintln!("a network namespace is left: {error}");
            }
        }
    }
}

/// Not every kernel has netem, which alone can delay.
fn has_netem(namespace: &str) -> bool {
    let on_loopback = ["-n", namespace, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"];
    let has_it = run(Command::new("tc").args(on_loopback)).is_ok();
    has_it && run(Command::new("tc").args(["-n", namespace, "qdisc", "del", "dev", "lo", "root"])).is_ok()
}

fn add_netem(namespace: &str) -> Result<(), String> {
    let netem = ["root", "netem", "delay", "0.5ms", "rate", "1gbit", "limit", "10000"];
    run(Command::new("tc").args(["-n", namespace, "qdisc", "add", "dev", "eth0"]).args(netem))
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
