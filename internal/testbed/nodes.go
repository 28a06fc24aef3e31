package testbed

import (
	"context"
	_ "embed" // for stages
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

// UnreadyAnnotation on a pod keeps it from becoming ready, as a failing readiness probe would. On a pod template it
// blocks the rollout. A Job's pod does not complete. A pod becomes ready once the annotation is removed; a pod that
// is already ready stays ready.
const UnreadyAnnotation = "testbed.leasekeeper.io/unready"

// NodesOptions are all optional.
type NodesOptions struct {
	// Count is the number of nodes, named node-0, node-1, …; 3 if 0.
	Count int
	// ReadyAfter is the time from the start of a pod until it is ready or, for a Job, complete; 500 ms if 0.
	ReadyAfter time.Duration
}

// stages configure how kwok simulates nodes and pods.
//
//go:embed nodes_stages.yaml
var stages string

// StartNodes starts kube-scheduler, and kwok instead of kubelets, and waits until pods can be scheduled. Pods are then
// scheduled, become ready, and are removed when deleted. No container runs: nothing is mounted, probed or logged, and
// a missing Secret does not block a pod. Call it once.
func (c *ControlPlane) StartNodes(ctx context.Context, opts NodesOptions) error {
	if c.scheduler != nil {
		return errors.New("the nodes are already running")
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
	return c.scheduler.await(ctx, func(ctx context.Context) error { return checkReady(ctx, scheduler) })
}

// configureNodes prepares the two processes and returns the scheduler's address. kwok does not listen.
func (c *ControlPlane) configureNodes(opts NodesOptions) (scheduler *rest.Config, err error) {
	text := strings.ReplaceAll(stages, "READY_AFTER_MS", strconv.FormatInt(opts.ReadyAfter.Milliseconds(), 10))
	if err := os.WriteFile(c.path("nodes_stages.yaml"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	if err := c.writeAccess("scheduler.kubeconfig", "system:kube-scheduler"); err != nil {
		return nil, err
	}
	// No default role fits kwok, which acts as many kubelets.
	if err := c.writeAccess("kwok.kubeconfig", "kwok", "system:masters"); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	c.scheduler = newServer(c.Binaries.Scheduler, c.dir, c.schedulerArgs(port)...)
	c.kwok = newServer(c.Binaries.Kwok, c.dir, c.kwokArgs()...)
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
		// Like a kubelet. Without the Lease a node is lost after 50 s.
		"--node-lease-duration-seconds=40",
		// Distinct from the Services' range, and large enough for all pods of a long run.
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

// nodesReady also waits until the node lifecycle controller removed the taints of new nodes.
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
			return fmt.Errorf("%s is not ready or has taints: %v", node.Name, node.Spec.Taints)
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
