//! Starts the parts of a control plane in their order and holds them together: API server first, its
//! socket next, then controllers and scheduler as in-process clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use apiserver::auth::AuthOptions;
use apiserver::{ApiServer, KubeletOptions, Options, UserInfo};
use ipnetwork::IpNetwork;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::pki::{Identity, Pki};
use crate::{bootstrap, files, kubeconfig, local, token};

/// The user as whom the controllers' shared views are filled.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
const NO_GROUPS: [&str; 0] = [];

/// A control plane that serves.
pub struct Running {
    server: ApiServer,
    pki: Pki,
    url: String,
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

/// Opens the store, serves the API, creates what every cluster has, and starts controllers and
/// scheduler; the API is ready when this returns. `shutdown` stops it.
pub async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<Running> {
    files::private_dir(&config.data_dir)?;
    let pki = Pki::open(&config.data_dir.join("pki"))?;
    let token = token::open(
        &config.data_dir.join("join-token"),
        config.token.as_deref(),
        pki.ca_hash(),
    )?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}: choose another --secure-port", config.listen))?;
    let address = listener.local_addr()?;
    let server = ApiServer::open(options(&config, &pki, address)?).context("start the API")?;
    // Until it is finished the server answers, but is not ready.
    let prepared = server.hooks().begin("windlass/prepare-cluster");
    let tls = server_tls(&pki, &serving_identity(&config, &pki)?)?;
    let url = url(config.advertise, address.port());
    let mut running = Running {
        server,
        pki,
        url,
        tasks: JoinSet::new(),
        shutdown,
    };
    let serving = apiserver::serve(
        running.server.clone(),
        listener,
        Arc::new(tls),
        running.shutdown.clone(),
    );
    running.tasks.spawn(async move {
        serving.await;
        Ok(())
    });
    tracing::info!(%address, "the API answers");
    running
        .server
        .bootstrap()
        .await
        .context("create what every cluster has")?;
    bootstrap::run(&running.admin(), &token, &config)
        .await
        .context("prepare the cluster")?;
    write_kubeconfigs(&config, &running)?;
    prepared.finished();
    tracing::info!("the API is ready");
    if config.controllers {
        running.start_controllers(&config);
        running.start_scheduler();
    }
    Ok(running)
}

impl Running {
    /// URL of the API for members of the cluster.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// A serving certificate for the kubelet API of a node in this process.
    pub fn kubelet_serving(&self, node: &str, ips: &[IpAddr]) -> anyhow::Result<Identity> {
        Ok(self.pki.kubelet_serving(node, ips)?)
    }

    /// The in-process client of a node's pod half.
    pub fn client_of_node(&self, node: &str) -> kube::Client {
        self.client(UserInfo::new(
            format!("system:node:{node}"),
            ["system:nodes"],
        ))
    }

    /// The in-process client of a node's net half.
    pub fn client_of_net(&self, node: &str) -> kube::Client {
        self.client(UserInfo::new(
            format!("windlass:net:{node}"),
            ["windlass:net"],
        ))
    }

    /// An in-process client that may do everything.
    pub fn admin(&self) -> kube::Client {
        self.client(UserInfo::new("windlass:server", ["system:masters"]))
    }

    /// Waits until everything has stopped; the first failure stops the rest.
    pub async fn stopped(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended
                .context("a part of the control plane panicked")
                .flatten();
            if let Err(error) = ended {
                self.shutdown.cancel();
                result = result.and(Err(error));
            }
        }
        self.server.close().await;
        result
    }

    fn client(&self, user: UserInfo) -> kube::Client {
        local::client(&self.server, user)
    }

    fn start_controllers(&mut self, config: &Config) {
        let server = self.server.clone();
        let context = controllers::Context {
            client_for: Arc::new(move |name: &str| {
                let user = match name {
                    controllers::FEED_IDENTITY => UserInfo::new(CONTROLLER_MANAGER, NO_GROUPS),
                    name => UserInfo::service_account("kube-system", name),
                };
                local::client(&server, user)
            }),
            cluster_cidrs: config.cluster_cidrs.clone(),
            node_cidr_mask: controllers::NodeCidrMask::default(),
            ca_cert_pem: self.pki.ca_pem().to_owned(),
            ca_key_pem: self.pki.ca_key_pem().to_owned(),
            root_ca_pem: self.pki.ca_pem().to_owned(),
        };
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn(async move { Ok(controllers::run(context, shutdown).await?) });
    }

    fn start_scheduler(&mut self) {
        let client = self.client(UserInfo::new(SCHEDULER, NO_GROUPS));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            scheduler::run(client, shutdown).await;
            Ok(())
        });
    }
}

fn options(config: &Config, pki: &Pki, address: SocketAddr) -> anyhow::Result<Options> {
    let kubelet = pki.client("kube-apiserver-kubelet-client", "system:masters")?;
    let mut options = Options::new(config.data_dir.join("db"));
    options.advertise = Some((config.advertise, address.port()));
    options.service_cidrs = config.service_cidrs.clone();
    options.auth = AuthOptions {
        client_ca_pem: pki.ca_pem().to_owned(),
        service_account_key_pem: pki.sa_key_pem().to_owned(),
        issuer: format!("https://kubernetes.default.svc.{}", config.cluster_domain),
    };
    options.kubelet = KubeletOptions {
        ca_pem: pki.ca_pem().to_owned(),
        cert_pem: kubelet.cert_pem,
        key_pem: kubelet.key_pem,
    };
    Ok(options)
}

fn serving_identity(config: &Config, pki: &Pki) -> anyhow::Result<Identity> {
    let domain = &config.cluster_domain;
    let mut names: Vec<String> = vec![
        "localhost".into(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
        format!("kubernetes.default.svc.{domain}"),
    ];
    let mut ips = vec![
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    ];
    ips.push(config.advertise);
    for range in &config.service_cidrs {
        ips.extend(first_address(range));
    }
    for san in &config.sans {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(san.clone()),
        }
    }
    Ok(pki.server("kube-apiserver", &names, &ips)?)
}

/// The address of the Service `kubernetes`: the first of the range after the network's own.
fn first_address(range: &IpNetwork) -> Option<IpAddr> {
    match range {
        IpNetwork::V4(range) => range.nth(1).map(IpAddr::V4),
        IpNetwork::V6(range) => range.nth(1).map(IpAddr::V6),
    }
}

fn server_tls(pki: &Pki, identity: &Identity) -> anyhow::Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn write_kubeconfigs(config: &Config, running: &Running) -> anyhow::Result<()> {
    let admin = running.pki.client("kubernetes-admin", "system:masters")?;
    let content = kubeconfig::render(&running.url, running.pki.ca_pem(), &admin);
    files::write_secret(&config.data_dir.join("admin.kubeconfig"), &content)?;
    if let Some(path) = &config.kubeconfig {
        files::write_secret(path, &content)?;
    }
    Ok(())
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address, port))
}
