package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ControlPlaneOptions are all optional.
type ControlPlaneOptions struct {
	// CRDs are files or directories. They are installed before the controller-manager starts, because its garbage
	// collector discovers new kinds only every 30 s.
	CRDs []string
	// APIServerArgs are additional arguments of kube-apiserver.
	APIServerArgs []string
}

// ControlPlane is etcd, kube-apiserver with RBAC, and kube-controller-manager with all controllers. It has no nodes,
// and no pod runs, until StartNodes.
type ControlPlane struct {
	// Config is the administrator's, without throttling.
	Config *rest.Config
	// Kubeconfig is the path of a kubeconfig with the same access.
	Kubeconfig string
	// CA is the PEM certificate of the API server's issuer.
	CA []byte
	// Binaries of the control plane's servers.
	Binaries Binaries

	dir                          string
	ca                           *authority
	etcd, apiserver, controllers *process
	scheduler, kwok              *process // nil until StartNodes
	audit                        auditLog[APIRequest]
	// installed is the folder of config/ that was applied last; empty: none.
	installed string
}

// StartControlPlane starts the three servers and waits until the API server is ready, the CRDs are established, and
// the controllers are running.
func StartControlPlane(ctx context.Context, opts ControlPlaneOptions) (*ControlPlane, error) {
	binaries, err := FindBinaries()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("controlplane")
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{Binaries: binaries, dir: dir}
	if err := c.start(ctx, opts); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *ControlPlane) start(ctx context.Context, opts ControlPlaneOptions) error {
	if err := c.configure(opts); err != nil {
		return err
	}
	if err := c.etcd.start(); err != nil {
		return err
	}
	// The API server waits for etcd.
	if err := c.apiserver.start(); err != nil {
		return err
	}
	if err := c.apiserver.await(ctx, c.ready); err != nil {
		return err
	}
	if err := c.installCRDs(ctx, opts.CRDs); err != nil {
		return err
	}
	if err := c.controllers.start(); err != nil {
		return err
	}
	return c.controllers.await(ctx, c.controllersWork)
}

// ready checks /readyz, which includes the bootstrap roles.
func (c *ControlPlane) ready(ctx context.Context) error { return checkReady(ctx, c.Config) }

func checkReady(ctx context.Context, server *rest.Config) error {
	client, err := kubernetes.NewForConfig(server)
	if err != nil {
		return err
	}
	return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// controllersWork waits for the first action of the ServiceAccount controller.
func (c *ControlPlane) controllersWork(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	return err
}

func (c *ControlPlane) installCRDs(ctx context.Context, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	args := []string{"create"}
	for _, path := range paths {
		args = append(args, "-f", path)
	}
	if _, err := c.Kubectl(ctx, args...); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	return err
}

// Kubectl runs kubectl as administrator and returns its output.
func (c *ControlPlane) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Binaries.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}

// ConfigForServiceAccount returns a config with the permissions of an existing ServiceAccount. Its token expires after
// a day.
func (c *ControlPlane) ConfigForServiceAccount(ctx context.Context, namespace, name string) (*rest.Config, error) {
	token, err := c.Token(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	cfg := rest.AnonymousClientConfig(c.Config)
	cfg.BearerToken = token
	return cfg, nil
}

// Token issues a token of an existing ServiceAccount for a day. Without audiences it is for the API server.
func (c *ControlPlane) Token(ctx context.Context, namespace, name string, audiences ...string) (string, error) {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return "", err
	}
	seconds := int64(24 * time.Hour / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: &seconds,
	}}
	response, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create a token of ServiceAccount %s/%s: %w", namespace, name, err)
	}
	return response.Status.Token, nil
}

// StopAPIServer kills kube-apiserver, because a graceful stop waits for open watches. StartAPIServer restarts it on
// the same port with all stored objects.
func (c *ControlPlane) StopAPIServer() error { return c.apiserver.kill() }

// StartAPIServer reverts StopAPIServer and waits until the API server is ready.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	if err := c.apiserver.start(); err != nil {
		return err
	}
	return c.apiserver.await(ctx, c.ready)
}

// Pause freezes the API server: connections stay open, and requests get no response.
func (c *ControlPlane) Pause() error { return c.apiserver.pause() }

// Resume reverts Pause.
func (c *ControlPlane) Resume() error { return c.apiserver.resume() }

// Close stops all servers and removes their files.
func (c *ControlPlane) Close() error {
	var errs []error
	for _, p := range []*process{c.kwok, c.scheduler, c.controllers, c.apiserver, c.etcd} {
		if p == nil {
			continue
		}
		// Kill them: no data is kept, and the API server would wait for open watches.
		errs = append(errs, p.kill())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

func (c *ControlPlane) path(name string) string { return filepath.Join(c.dir, name) }
