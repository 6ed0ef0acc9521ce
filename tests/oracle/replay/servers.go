package replay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Programs are the paths of what is started.
type Programs struct{ Etcd, Upstream, Ours string }

// Server is one of the two.
type Server struct {
	Name   string
	URL    string
	client *http.Client
	// saved values, by name.
	saved map[string]string
}

// Pair is upstream's server and ours, and the processes behind them.
type Pair struct {
	Upstream, Ours *Server
	processes      []*exec.Cmd
}

// patience is how long a server may take to be ready, and a request to be answered.
const patience = 90 * time.Second

// notContacted is published as the address of both; nothing is ever sent there (RFC 5737).
const notContacted = "192.0.2.1"

const services = "10.96.0.0/16"

// Start starts all programs on loopback, with state and logs in a folder, and waits until both are ready.
func Start(ctx context.Context, programs Programs, folder string) (pair *Pair, err error) {
	pair = &Pair{}
	defer func() {
		if err != nil {
			pair.Stop()
		}
	}()
	ports, err := freePorts(4)
	if err != nil {
		return pair, err
	}
	if err = pair.startUpstream(programs, folder, ports[:3]); err != nil {
		return pair, err
	}
	if err = pair.startOurs(programs.Ours, folder, ports[3]); err != nil {
		return pair, err
	}
	for _, server := range []*Server{pair.Upstream, pair.Ours} {
		if err = server.ready(ctx, folder); err != nil {
			return pair, err
		}
	}
	return pair, nil
}

// Stop ends all processes, the last started first.
func (p *Pair) Stop() {
	for i := len(p.processes) - 1; i >= 0; i-- {
		process := p.processes[i]
		_ = process.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = process.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = process.Process.Kill()
			<-done
		}
	}
	p.processes = nil
}

func (p *Pair) start(folder, name, program string, args ...string) error {
	log, err := os.Create(filepath.Join(folder, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	process := exec.Command(program, args...)
	process.Stdout, process.Stderr = log, log
	// It ends with this process, whatever happens to it.
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.processes = append(p.processes, process)
	return nil
}

func (p *Pair) startUpstream(programs Programs, folder string, ports []int) error {
	client, peer := loopback("http", ports[0]), loopback("http", ports[1])
	err := p.start(folder, "etcd", programs.Etcd, "--data-dir", filepath.Join(folder, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "default="+peer, "--log-level", "warn", "--unsafe-no-fsync")
	if err != nil {
		return err
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	token := hex.EncodeToString(secret)
	tokens := filepath.Join(folder, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(token+",admin,admin,system:masters\n"), 0o600); err != nil {
		return err
	}
	public, private, err := signingKey(folder)
	if err != nil {
		return err
	}
	p.Upstream = &Server{Name: "upstream", URL: loopback("https", ports[2])}
	config := &rest.Config{BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	if p.Upstream.client, err = rest.HTTPClientFor(config); err != nil {
		return err
	}
	return p.start(folder, "kube-apiserver", programs.Upstream, "--etcd-servers", client,
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(ports[2]),
		"--advertise-address", notContacted, "--endpoint-reconciler-type", "none",
		"--cert-dir", filepath.Join(folder, "certs"), "--token-auth-file", tokens,
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", public, "--service-account-signing-key-file", private,
		"--service-cluster-ip-range", services, "--authorization-mode", "Node,RBAC",
		"--enable-admission-plugins", "NodeRestriction", "--allow-privileged")
}

func (p *Pair) startOurs(program, folder string, port int) error {
	data := filepath.Join(folder, "windlass")
	p.Ours = &Server{Name: "ours", URL: loopback("https", port)}
	return p.start(folder, "windlass", program, "--log", "info", "server", "--disable-agent",
		"--disable-controllers", "--data-dir", data, "--bind-address", "127.0.0.1",
		"--secure-port", fmt.Sprint(port), "--advertise-address", notContacted, "--tls-san", "127.0.0.1",
		"--node-name", "oracle", "--node-ip", "127.0.0.1", "--service-cidr", services)
}

// ready waits until the server says so; ours has written its kubeconfig by then.
func (s *Server) ready(ctx context.Context, folder string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := s.connect(folder)
		if err == nil {
			var answer *http.Response
			if answer, err = s.client.Get(s.URL + "/readyz"); err == nil {
				answer.Body.Close()
				if answer.StatusCode == http.StatusOK {
					return nil
				}
				err = errors.New(answer.Status)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (logs in %s)", s.Name, err, folder)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Server) connect(folder string) error {
	if s.client != nil {
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(folder, "windlass", "admin.kubeconfig"))
	if err != nil {
		return err
	}
	s.client, err = rest.HTTPClientFor(config)
	return err
}

func loopback(scheme string, port int) string {
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
}

func freePorts(count int) ([]int, error) {
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// signingKey makes the key of service account tokens.
func signingKey(folder string) (public, private string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	write := func(name, kind string, der []byte) (string, error) {
		path := filepath.Join(folder, name)
		return path, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", "", err
	}
	if private, err = write("sa.key", "EC PRIVATE KEY", der); err != nil {
		return "", "", err
	}
	if der, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return "", "", err
	}
	public, err = write("sa.pub", "PUBLIC KEY", der)
	return public, private, err
}
