package rollout

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// cluster is a fake without Argo Rollouts. It counts patches and can fail requests.
type cluster struct {
	client.WithWatch
	patches int
	// fault is called before each request, such as "list deployments.apps".
	fault func(request string) error
}

func newCluster(objects ...client.Object) *cluster {
	scheme := runtime.NewScheme()
	_ = clientgoscheme.AddToScheme(scheme)
	c := &cluster{fault: func(string) error { return nil }}
	inner := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	c.WithWatch = interceptor.NewClient(inner, interceptor.Funcs{
		Get: func(
			ctx context.Context, in client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption,
		) error {
			if err := c.request("get", o); err != nil {
				return err
			}
			return in.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, in client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			if err := c.request("list", l); err != nil {
				return err
			}
			return in.List(ctx, l, opts...)
		},
		Apply: func(
			ctx context.Context, in client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption,
		) error {
			c.patches++
			if err := c.fault("patch"); err != nil {
				return err
			}
			return in.Apply(ctx, o, opts...)
		},
	})
	return c
}

func (c *cluster) request(verb string, o runtime.Object) error {
	gvk := o.GetObjectKind().GroupVersionKind()
	if gvk.Group == "argoproj.io" {
		return &apimeta.NoKindMatchError{GroupKind: gvk.GroupKind()}
	}
	if _, pods := o.(*corev1.PodList); pods {
		return c.fault(verb + " pods")
	}
	return c.fault(verb + " " + strings.ToLower(strings.TrimSuffix(gvk.Kind, "List")) + "s.apps")
}

func (c *cluster) follow(t *testing.T, consumer Consumer, hold bool, others ...Consumer) Progress {
	t.Helper()
	p, err := (&Rollouts{Reader: c, Writer: c}).Follow(t.Context(), consumer, published, others, hold)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stamps returns the stamps of a workload's template, by Secret.
func (c *cluster) stamps(t *testing.T, object client.Object) map[string]string {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		t.Fatal(err)
	}
	stamps := map[string]string{}
	for k, v := range annotations(object) {
		if name, ours := strings.CutPrefix(k, v1alpha1.StampAnnotationPrefix); ours {
			stamps[name] = v
		}
	}
	return stamps
}

func (c *cluster) expectStamps(t *testing.T, object client.Object, pairs ...string) {
	t.Helper()
	want := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		want[pairs[i]] = pairs[i+1]
	}
	if got := c.stamps(t, object); !maps.Equal(got, want) {
		t.Errorf("%s has stamps %v, want %v", object.GetName(), got, want)
	}
}

func expectProgress(t *testing.T, p Progress, reason string, waiting ...string) {
	t.Helper()
	if p.Done || p.Reason != reason {
		t.Errorf("got %+v, want %s", p, reason)
	}
	all := strings.Join(p.Waiting, "\n")
	for _, w := range waiting {
		if !strings.Contains(all, w) {
			t.Errorf("Waiting is %q, want %q", p.Waiting, w)
		}
	}
}

func TestStampsEachWorkloadOnce(t *testing.T) {
	for _, c := range []struct {
		name     string
		consumer Consumer
		want     []string
	}{
		{"target by kind and name", targetConsumer("orders-db", stampNow, target(v1alpha1.KindStatefulSet, "orders")),
			[]string{"StatefulSet/orders"}},
		{"kind defaults to Deployment", targetConsumer("orders-db", stampNow, target("", "orders")),
			[]string{"Deployment/orders"}},
		{"target by labels", targetConsumer("orders-db", stampNow, selectorTarget(v1alpha1.KindDaemonSet, "orders")),
			[]string{"DaemonSet/orders"}},
		{"labels that match nothing", targetConsumer("orders-db", stampNow, selectorTarget("", "nothing")), nil},
		{"discovery", discoverConsumer("orders-db", stampNow),
			[]string{"Deployment/orders", "StatefulSet/orders", "DaemonSet/orders"}},
		{"workload selected in three ways",
			Consumer{Namespace: namespace, Secret: "orders-db", Stamp: stampNow, Spec: v1alpha1.RolloutSpec{
				Discover: true, Targets: []v1alpha1.RolloutTarget{target("", "orders"), selectorTarget("", "orders"),
					target("", "orders"), target("", "billing")},
			}}, []string{"Deployment/orders", "StatefulSet/orders", "DaemonSet/orders", "Deployment/billing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			elsewhere := deployment("orders", "orders-db")
			elsewhere.Namespace = "bank"
			all := map[string]client.Object{
				"Deployment/orders":  deployment("orders", "orders-db"),
				"StatefulSet/orders": statefulSet("orders", "orders-db"),
				"DaemonSet/orders":   daemonSet("orders", "orders-db"),
				"Deployment/billing": deployment("billing", "billing-db"),
				"elsewhere":          elsewhere,
			}
			var objects []client.Object
			for _, o := range all {
				objects = append(objects, o)
			}
			cluster := newCluster(objects...)
			p := cluster.follow(t, c.consumer, false)
			if len(p.Stamped) != len(c.want) || cluster.patches != len(c.want) {
				t.Errorf("stamped %v in %d patches, want %d: %q", p.Stamped, cluster.patches, len(c.want), p.Waiting)
			}
			if len(c.want) == 0 && !p.Done {
				t.Errorf("got %+v, want it done", p)
			}
			for _, name := range c.want {
				cluster.expectStamps(t, all[name], "orders-db", stampNow)
				delete(all, name)
			}
			for _, o := range all {
				cluster.expectStamps(t, o)
			}
			if p := cluster.follow(t, c.consumer, false); len(p.Stamped) != 0 || cluster.patches != len(c.want) {
				t.Error("a second call stamped again")
			}
		})
	}
}

func TestMissingWorkloadKeepsTheOldLease(t *testing.T) {
	cluster := newCluster(deployment("orders"))
	p := cluster.follow(t, targetConsumer("orders-db", stampNow, target("", "order"), target("", "orders")), false)
	expectProgress(t, p, v1alpha1.ReasonRolloutTargetNotFound, "Deployment/order does not exist",
		"Deployment/orders: 0 of 1 pods updated")
	if len(p.Stamped) != 1 {
		t.Error("the existing workload was not stamped")
	}
}

func TestNamedArgoRolloutWithoutTheCRD(t *testing.T) {
	p := newCluster().follow(t, targetConsumer("orders-db", stampNow, target(v1alpha1.KindRollout, "orders")), false)
	expectProgress(t, p, v1alpha1.ReasonRolloutTargetNotFound,
		"Rollout/orders does not exist: the cluster has no rollouts.argoproj.io")
}

func TestReportsInvalidSelector(t *testing.T) {
	selector := &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like"}},
	}
	consumer := targetConsumer("orders-db", stampNow, v1alpha1.RolloutTarget{Selector: selector})
	expectProgress(t, newCluster(deployment("orders")).follow(t, consumer, false), v1alpha1.ReasonRolloutTargetNotFound,
		"spec.rollout.targets[0].selector is invalid", "Like")
}

func TestDoesNotStampTerminatingWorkload(t *testing.T) {
	terminating := deployment("orders", "orders-db")
	now := metav1.Now()
	terminating.DeletionTimestamp, terminating.Finalizers = &now, []string{"foregroundDeletion"}
	cluster := newCluster(terminating, pod("orders", "a", 0))
	expectProgress(t, cluster.follow(t, discoverConsumer("orders-db", stampNow), false), v1alpha1.ReasonRollingOut,
		"Deployment/orders: pod a started before")
	cluster.expectStamps(t, deployment("orders"))
}

func TestSharedWorkloadRollsOutOnce(t *testing.T) {
	shared, own := deployment("shared", "orders-db", "billing-db"), deployment("own", "orders-db")
	cluster := newCluster(shared, own)
	orders, billing := discoverConsumer("orders-db", "o2"), discoverConsumer("billing-db", "")

	p := cluster.follow(t, orders, true, orders, billing)
	expectProgress(t, p, v1alpha1.ReasonRollingOut, "Deployment/shared waits for its other credentials",
		"Deployment/own: 0 of 1 pods updated")
	cluster.expectStamps(t, shared)
	cluster.expectStamps(t, own, "orders-db", "o2")

	billing.Stamp = "b2"
	cluster.follow(t, billing, true, orders, billing)
	cluster.expectStamps(t, shared, "orders-db", "o2", "billing-db", "b2")
	cluster.follow(t, orders, true, orders, billing)
	if cluster.patches != 2 {
		t.Errorf("got %d patches of 2 workloads, want 2", cluster.patches)
	}
}

func TestSharedWorkloadIsStampedWithoutHold(t *testing.T) {
	shared := deployment("shared", "orders-db", "billing-db")
	cluster := newCluster(shared)
	orders, billing := discoverConsumer("orders-db", "o2"), discoverConsumer("billing-db", "")
	cluster.follow(t, orders, false, billing)
	cluster.expectStamps(t, shared, "orders-db", "o2")
	billing.Stamp = "b2"
	cluster.follow(t, billing, false, orders)
	cluster.expectStamps(t, shared, "orders-db", "o2", "billing-db", "b2")
}

func TestKeepsStampsOfOtherSecrets(t *testing.T) {
	shared := deployment("shared", "orders-db", "billing-db", "gone-db")
	shared.Spec.Template.Annotations = map[string]string{StampKey("gone-db"): "g1", StampKey("billing-db"): "b1",
		StampKey("orders-db"): "o1", "prometheus.io/scrape": "true"}
	cluster := newCluster(shared)
	cluster.follow(t, discoverConsumer("orders-db", "o2"), false, discoverConsumer("billing-db", ""),
		discoverConsumer("unrelated", "u2"))
	cluster.expectStamps(t, shared, "orders-db", "o2", "billing-db", "b1", "gone-db", "g1")
	if annotations(shared)["prometheus.io/scrape"] != "true" {
		t.Error("a foreign annotation was removed")
	}
	cluster.follow(t, discoverConsumer("orders-db", "o3"), false, discoverConsumer("billing-db", "b3"))
	cluster.expectStamps(t, shared, "orders-db", "o3", "billing-db", "b3", "gone-db", "g1")
}

func TestWithoutStampPatchesNothing(t *testing.T) {
	cluster := newCluster(deployment("orders", "orders-db"))
	if cluster.follow(t, discoverConsumer("orders-db", ""), false); cluster.patches != 0 {
		t.Error("the workload was patched")
	}
}

func forbidden(message string) error {
	return apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, "orders",
		errors.New(message))
}

func TestNamesMissingPermission(t *testing.T) {
	discover := discoverConsumer("orders-db", stampNow)
	named := targetConsumer("orders-db", stampNow, target("", "orders"))
	for _, c := range []struct {
		request  string
		consumer Consumer
		message  string
		want     string
	}{
		{"list deployments.apps", discover, `User "x" cannot list resource "deployments"`, "list deployments.apps"},
		{"list daemonsets.apps", discover, `User "x" cannot list resource "daemonsets"`, "list daemonsets.apps"},
		{"get deployments.apps", named, `User "x" cannot get resource "deployments"`, "get deployments.apps"},
		{"list pods", named, `User "x" cannot list resource "pods"`, "list pods"},
		{"patch", named, `User "x" cannot patch resource "deployments"`, "patch deployments.apps"},
		{"patch", named, `admission webhook "policy" denied the request: no`,
			`Deployment/orders cannot be stamped: deployments.apps "orders" is forbidden: admission webhook`},
	} {
		t.Run(c.want, func(t *testing.T) {
			cluster := newCluster(deployment("orders", "orders-db"))
			cluster.fault = func(request string) error {
				if request == c.request {
					return forbidden(c.message)
				}
				return nil
			}
			expectProgress(t, cluster.follow(t, c.consumer, false), v1alpha1.ReasonRolloutForbidden, c.want)
		})
	}
}

func TestFailedRequestIsNeverDone(t *testing.T) {
	discover := discoverConsumer("orders-db", stampNow)
	named := targetConsumer("orders-db", stampNow, target("", "orders"))
	for request, consumer := range map[string]Consumer{
		"list deployments.apps": discover, "list statefulsets.apps": discover, "list pods": discover,
		"get deployments.apps": named, "patch": named,
	} {
		t.Run(request, func(t *testing.T) {
			cluster := newCluster(deployment("orders", "orders-db"))
			failure := apierrors.NewInternalError(errors.New("etcd is unavailable"))
			cluster.fault = func(r string) error {
				if r == request {
					return failure
				}
				return nil
			}
			expectProgress(t, cluster.follow(t, consumer, false), v1alpha1.ReasonRolloutCheckFailed,
				"etcd is unavailable")
		})
	}
}

// conflictingChanges makes the first patches conflict with another writer's change.
func conflictingChanges(t *testing.T, c *cluster, times int, change func(*appsv1.Deployment)) {
	c.fault = func(request string) error {
		if request != "patch" || c.patches > times {
			return nil
		}
		d := &appsv1.Deployment{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "orders"}, d); err != nil {
			t.Fatal(err)
		}
		change(d)
		if err := c.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		return nil
	}
}

func TestConflict(t *testing.T) {
	t.Run("keeps a stamp of another consumer", func(t *testing.T) {
		cluster := newCluster(deployment("orders", "orders-db"))
		conflictingChanges(t, cluster, 1, func(d *appsv1.Deployment) {
			d.Spec.Template.Annotations = map[string]string{StampKey("billing-db"): "b2"}
		})
		p := cluster.follow(t, discoverConsumer("orders-db", "o2"), false)
		if len(p.Stamped) != 1 || cluster.patches != 2 {
			t.Errorf("%d patches, %+v", cluster.patches, p)
		}
		cluster.expectStamps(t, deployment("orders"), "orders-db", "o2", "billing-db", "b2")
	})
	t.Run("does not stamp twice", func(t *testing.T) {
		cluster := newCluster(deployment("orders", "orders-db"))
		conflictingChanges(t, cluster, 1, func(d *appsv1.Deployment) {
			d.Spec.Template.Annotations = map[string]string{StampKey("orders-db"): "o2"}
		})
		p := cluster.follow(t, discoverConsumer("orders-db", "o2"), false)
		if len(p.Stamped) != 0 || cluster.patches != 1 {
			t.Errorf("%d patches, %+v", cluster.patches, p)
		}
	})
	t.Run("gives up", func(t *testing.T) {
		cluster := newCluster(deployment("orders", "orders-db"))
		serial := 0
		conflictingChanges(t, cluster, 100, func(d *appsv1.Deployment) {
			serial++
			d.Annotations = map[string]string{"serial": strings.Repeat("x", serial)}
		})
		p := cluster.follow(t, discoverConsumer("orders-db", "o2"), false)
		if p.Reason != v1alpha1.ReasonRolloutCheckFailed || cluster.patches != maxTries {
			t.Errorf("%d patches, %+v", cluster.patches, p)
		}
	})
}

func TestStampKeyIsValidAndUnique(t *testing.T) {
	long := strings.Repeat("a", 45) + "." + strings.Repeat("b", 200)
	a, b := StampKey(long+"-1"), StampKey(long+"-2")
	if a == b {
		t.Error("two Secrets share a key")
	}
	for _, k := range []string{a, b, StampKey("orders-db"), StampKey(strings.Repeat("a", 63))} {
		if errs := validation.IsQualifiedName(k); len(errs) > 0 {
			t.Errorf("%s: %v", k, errs)
		}
	}
	if StampKey("orders-db") != "rollout.leasekeeper.io/orders-db" {
		t.Error(StampKey("orders-db"))
	}
}

// A workload from which something removes the stamp is not stamped during a pause. If no pod may hold the old
// credential, the handover is complete all the same.
func TestContestedWorkloadIsLeftAlone(t *testing.T) {
	const kept = "Deployment/orders does not keep the annotation rollout.leasekeeper.io/orders-db on its pod template"
	for name, age := range map[string]time.Duration{"a pod is old": time.Hour, "all pods are new": -time.Minute} {
		t.Run(name, func(t *testing.T) {
			d := deployment("orders", "orders-db")
			d.Status = appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}
			cluster := newCluster(d, pod("orders", "orders-1", age, ownedBy("ReplicaSet")))
			consumer := discoverConsumer("orders-db", "o1")
			consumer.Contested = map[string]bool{"Deployment/orders": true}
			p := cluster.follow(t, consumer, false)
			if cluster.patches > 0 || len(p.Stamped) > 0 {
				t.Errorf("%d patches, stamped %v", cluster.patches, p.Stamped)
			}
			if age < 0 && p.Done {
				return
			}
			expectProgress(t, p, v1alpha1.ReasonRolloutContested, kept)
		})
	}
}

// The finding about a removed stamp names the last other writer since the publication.
func TestRemoverOfStamps(t *testing.T) {
	wrote := func(manager string, after time.Duration, subresource string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource,
			Time: &metav1.Time{Time: published.Add(after)}}
	}
	for name, c := range map[string]struct {
		fields []metav1.ManagedFieldsEntry
		want   string
	}{
		"nobody": {[]metav1.ManagedFieldsEntry{wrote(string(Manager), time.Minute, ""),
			wrote("helm", -time.Minute, ""), wrote("kube-controller-manager", time.Minute, "status")}, ""},
		"a tool": {[]metav1.ManagedFieldsEntry{wrote("kubectl", time.Second, ""), wrote("argocd", time.Minute, ""),
			wrote("helm", 2*time.Second, "")}, `; field manager "argocd" wrote the workload last`},
	} {
		w := newTestWorkload(t, v1alpha1.KindDeployment, deployment("orders", "orders-db"), finding{})
		w.object.SetManagedFields(c.fields)
		got := w.remover(discoverConsumer("orders-db", "o1"), published).text
		if _, who, _ := strings.Cut(got, "pod template"); who != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
