//! The proxies: started on a core of their own, asked what processor time they spent, ended when dropped.

use std::{
    fmt::Write as _,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Outcome, bare, load};

/// A running proxy.
pub struct Contender {
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    process: Child,
}

/// # Errors
/// What is missing on this machine.
pub fn tools() -> Outcome<()> {
    for (tool, flag) in [("taskset", "-V"), ("nginx", "-v")] {
        let found = Command::new(tool).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|error| format!("{tool} cannot be run: {error}"))?;
    }
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("two processor cores are needed, one for the proxies and one for the rest".into());
    }
    Ok(())
}

/// Clients and app stay on core 0.
pub fn pin_this_process() -> Outcome<()> {
    let status = Command::new("taskset").args(["-a", "-c", "-p", "0", &std::process::id().to_string()]).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err("taskset could not pin this process to core 0".into()) }
}

/// A port that was free a moment ago.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Contender {
    fn start(name: &'static str, address: SocketAddr, program: &Path, arguments: &[String]) -> Outcome<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(program).args(arguments).env("TOKIO_WORKER_THREADS", "1");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { name, address, process })
    }

    /// `local`: it answers what is unchanged by itself, else it forwards everything.
    pub fn tidegate(app: SocketAddr, folder: &Path, access_log: bool, local: bool) -> Outcome<Self> {
        let (address, admin) = (free()?, free()?);
        let log = if access_log { folder.join("tidegate.log").display().to_string() } else { "off".into() };
        let mode = if local { "on --set fresh.start_doubt=0s --set fresh.answers_max=2GiB" } else { "off" };
        let settings = format!(
            "run --listen {address} --app {app} --admin {admin} --profile dynalist --set app.seats={} --set log.access={log} --set fresh.mode={mode}",
            load::CONNECTIONS
        );
        let arguments: Vec<String> = settings.split(' ').map(String::from).collect();
        Self::start("tidegate", address, Path::new(env!("CARGO_BIN_EXE_tidegate")), &arguments)
    }

    /// Without an app it returns the app's answer from its configuration.
    pub fn nginx(app: Option<SocketAddr>, folder: &Path, access_log: bool) -> Outcome<Self> {
        let address = free()?;
        let folder = folder.display();
        let log = if access_log { format!("{folder}/nginx.log") } else { "off".into() };
        let mut text = format!(
            "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n  access_log {log}; keepalive_requests 1000000000;\n"
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(text, "  {kind}_temp_path {folder}/{kind};")?;
        }
        match app {
            None => write!(
                text,
                "  server {{\n    listen {address};\n    location / {{ default_type application/json; return 200 '{}'; }}\n  }}\n}}\n",
                load::BODY
            )?,
            Some(app) => write!(
                text,
                "  upstream app {{ server {app}; keepalive {connections}; keepalive_requests 1000000000; }}\n  \
             server {{\n    listen {address};\n    location / {{\n      proxy_pass http://app; proxy_http_version 1.1;\n      \
             proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n      \
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n    }}\n  }}\n}}\n",
                connections = load::CONNECTIONS
            )?,
        }
        let file = format!("{folder}/nginx.conf");
        fs::write(&file, text)?;
        let arguments = ["-e", "stderr", "-p", &folder.to_string(), "-c", &file].map(String::from);
        Self::start("nginx", address, Path::new("nginx"), &arguments)
    }

    /// Without an app it answers from memory.
    pub fn bare(app: Option<SocketAddr>) -> Outcome<Self> {
        let address = free()?;
        let mut arguments = vec![bare::FLAG.to_string(), address.to_string()];
        arguments.extend(app.map(|app| app.to_string()));
        Self::start("bare hyper", address, &std::env::current_exe()?, &arguments)
    }

    /// # Errors
    /// It ended, or does not listen after ten seconds.
    pub async fn wait_until_it_answers(&mut self) -> Outcome<()> {
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("{} ended at once: {status}", self.name).into());
            }
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} does not listen on {}", self.name, self.address).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What all threads of the proxy and of its children have spent so far, in user space and in the kernel.
    pub fn processor_time(&self) -> Outcome<Duration> {
        let mut family = vec![self.process.id()];
        let processes = processes()?;
        let mut next = 0;
        while next < family.len() {
            let parent = family[next];
            family.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
            next += 1;
        }
        let mut nanoseconds = 0;
        for process in family {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                // proc(5): time spent on the processor, in nanoseconds, comes first.
                let text = fs::read_to_string(thread?.path().join("schedstat"))?;
                nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// Every process with its parent.
fn processes() -> Outcome<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since; the name, which may hold anything, stands in brackets.
        let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        let parent = text.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        found.extend(parent.map(|parent| (process, parent)));
    }
    Ok(found)
}

impl Drop for Contender {
    /// Politely first: nginx's master must end its worker.
    fn drop(&mut self) {
        let asked = Command::new("kill").arg(self.process.id().to_string()).status().is_ok();
        let begun = Instant::now();
        while asked && begun.elapsed() < Duration::from_secs(5) {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It may have ended by itself in this moment, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
