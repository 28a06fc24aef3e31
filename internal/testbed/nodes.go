package testbed

import (
	"context"
	_ "embed" // for the stages
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// UnreadyAnnotation on a pod keeps it from becoming ready, whatever the value:
// its containers run, as under a readiness probe that fails. On a pod template
// it makes a roll-out that is stuck; a Job's pod does not complete. A pod that
// loses the annotation becomes ready; one that is ready already stays so.
const UnreadyAnnotation = "testbed.leasekeeper.io/unready"

// NodesOptions are all optional.
type NodesOptions struct {
	// Count is how many nodes there are, called node-0, node-1, …; 3 when 0.
	Count int
	// ReadyAfter is how long containers run until the pod is ready or, if it
	// is a Job's, has succeeded; 500 ms when 0.
	ReadyAfter time.Duration
}

// stages tell kwok what becomes of nodes and pods.
//
//go:embed nodes_stages.yaml
var stages string

// StartNodes starts kube-scheduler, and kwok in place of the kubelets, and
// waits until pods can be scheduled. From then on workloads roll out: pods are
// bound, run, become ready and go when they are deleted. No container of theirs
// exists: nothing is mounted, probed or logged, and a Secret that is missing
// keeps no pod back. It can be called once.
func (c *ControlPlane) StartNodes(ctx context.Context, opts NodesOptions) error {
	if c.scheduler != nil {
		return errors.New("the nodes were started already")
	}
	if opts.Count == 0 {
		opts.Count = 3
	}
	if opts.ReadyAfter == 0 {
		opts.ReadyAfter = 500 * time.Millisecond
	}
	scheduler, err := c.configureNodes(opts)
	if err != nil {
		return err
	}
	if err := errors.Join(c.scheduler.start(), c.kwok.start(), c.createNodes(ctx, opts.Count)); err != nil {
		return err
	}
	if err := c.kwok.await(ctx, c.nodesReady); err != nil {
		return err
	}
	return c.scheduler.await(ctx, func(ctx context.Context) error { return askReady(ctx, scheduler) })
}

// configureNodes prepares the two processes and answers how to reach the
// scheduler. kwok listens nowhere.
func (c *ControlPlane) configureNodes(opts NodesOptions) (scheduler *rest.Config, err error) {
	text := strings.ReplaceAll(stages, "READY_AFTER_MS", strconv.FormatInt(opts.ReadyAfter.Milliseconds(), 10))
	if err := os.WriteFile(c.path("nodes_stages.yaml"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	if err := c.writeAccess("scheduler.kubeconfig", "system:kube-scheduler"); err != nil {
		return nil, err
	}
	// No role that comes with Kubernetes fits kwok, which is many kubelets at once.
	if err := c.writeAccess("kwok.kubeconfig", "kwok", "system:masters"); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	c.scheduler = newProcess(c.Binaries.Scheduler, c.dir, c.schedulerArgs(port)...)
	c.kwok = newProcess(c.Binaries.Kwok, c.dir, c.kwokArgs()...)
	return &rest.Config{Host: "https://" + loopback(port), TLSClientConfig: rest.TLSClientConfig{CAData: c.CA}}, nil
}

func (c *ControlPlane) writeAccess(file, user string, groups ...string) error {
	config, err := clientConfig(c.ca, c.Config.Host, user, groups...)
	if err != nil {
		return err
	}
	return WriteKubeconfig(c.path(file), config)
}

func (c *ControlPlane) schedulerArgs(port int) []string {
	return []string{
		"--kubeconfig=" + c.path("scheduler.kubeconfig"),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + c.path("serving.crt"),
		"--tls-private-key-file=" + c.path("serving.key"),
		"--leader-elect=false",
	}
}

func (c *ControlPlane) kwokArgs() []string {
	return []string{
		"--kubeconfig=" + c.path("kwok.kubeconfig"),
		"--config=" + c.path("nodes_stages.yaml"),
		"--manage-all-nodes",
		// As a kubelet's: without the Lease a node is lost after 50 s.
		"--node-lease-duration-seconds=40",
		// Apart from the Services', and enough for all pods of a long run.
		"--cidr=10.1.0.0/16",
	}
}

func (c *ControlPlane) createNodes(ctx context.Context, count int) error {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	for i := range count {
		name := fmt.Sprintf("node-%d", i)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}}}
		if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// nodesReady waits for the taints too, which a new node has until the
// node lifecycle controller has seen it ready.
func (c *ControlPlane) nodesReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if !nodeReady(node) || len(node.Spec.Taints) > 0 {
			return fmt.Errorf("%s is not ready, or tainted: %v", node.Name, node.Spec.Taints)
		}
	}
	return nil
}

func nodeReady(node corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
