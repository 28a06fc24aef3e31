//go:build integration

package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// bed has real controllers and no nodes: what is stamped begins to roll out, and pods are made that never run.
var bed struct {
	plane *testbed.ControlPlane
	// admin may do anything, keeper what config/rollout gives to leasekeeper.
	admin, keeper client.Client
}

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var err error
	if bed.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{}); err != nil {
		panic(err)
	}
	defer func() { _ = bed.plane.Close() }()
	if _, err := bed.plane.Kubectl(ctx, "apply", "--server-side", "-k", "../../config/rollout"); err != nil {
		panic(err)
	}
	if bed.admin, err = client.New(bed.plane.Config, client.Options{}); err != nil {
		panic(err)
	}
	if bed.keeper, err = clientOf(ctx, testbed.ManagerNamespace, testbed.ManagerAccount); err != nil {
		panic(err)
	}
	return m.Run()
}

// clientOf is a client with the rights of a ServiceAccount.
func clientOf(ctx context.Context, namespace, name string) (client.Client, error) {
	config, err := bed.plane.ConfigForServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{})
}

// shop is a namespace of its own for a test.
type shop struct {
	*testing.T
	namespace string
}

var serial int

func newShop(t *testing.T) shop {
	serial++
	s := shop{t, fmt.Sprintf("shop-%d", serial)}
	s.check(bed.admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}))
	s.eventually("the namespace has its ServiceAccount", func() error {
		return bed.admin.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: "default"}, &corev1.ServiceAccount{})
	})
	return s
}

func (s shop) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// eventually polls with a deadline that only a fault reaches.
func (s shop) eventually(what string, holds func() error) {
	s.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	s.Fatalf("%s: %v", what, err)
}

// create objects of the fixtures in the shop.
func (s shop) create(objects ...client.Object) {
	s.Helper()
	for _, o := range objects {
		o.SetNamespace(s.namespace)
		s.check(bed.admin.Create(s.Context(), o))
	}
}

func (s shop) get(o client.Object) {
	s.Helper()
	s.check(bed.admin.Get(s.Context(), client.ObjectKeyFromObject(o), o))
}

// has compares the stamps of a template, by Secret.
func (s shop) has(o client.Object, pairs ...string) {
	s.Helper()
	s.get(o)
	have := annotations(o)
	count := 0
	for k := range have {
		if strings.HasPrefix(k, v1alpha1.StampAnnotationPrefix) {
			count++
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		if have[StampKey(pairs[i])] != pairs[i+1] {
			s.Errorf("%s has %v, want %v", o.GetName(), have, pairs)
		}
	}
	if count != len(pairs)/2 {
		s.Errorf("%s has %v, want %v", o.GetName(), have, pairs)
	}
}

func (s shop) follow(c Consumer, hold bool, others ...Consumer) Progress {
	s.Helper()
	return s.followBy(&Rollouts{Reader: bed.keeper, Writer: bed.keeper}, c, hold, others...)
}

func (s shop) followBy(r *Rollouts, c Consumer, hold bool, others ...Consumer) Progress {
	s.Helper()
	c.Namespace = s.namespace
	p, err := r.Follow(s.Context(), c, time.Now(), others, hold)
	s.check(err)
	return p
}

// meddler lets somebody else act just before each apply.
type meddler struct {
	client.Client
	applies int
	before  func()
}

func (m *meddler) Apply(ctx context.Context, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	m.applies++
	m.before()
	return m.Client.Apply(ctx, o, opts...)
}

func TestAStampIsOneChangeOfATemplateHoweverOftenItIsAppliedAndNothingElse(t *testing.T) {
	s := newShop(t)
	all := []client.Object{deployment("orders", "orders-db"), statefulSet("orders", "orders-db"), daemonSet("orders", "orders-db")}
	s.create(all...)
	if p := s.follow(discovering("orders-db", "o1"), false); p.Stamped != 3 || p.Done || p.Reason != v1alpha1.ReasonRollingOut {
		t.Errorf("got %+v", p)
	}
	for range 3 {
		if p := s.follow(discovering("orders-db", "o1"), false); p.Stamped != 0 {
			t.Errorf("stamped again: %+v", p)
		}
	}
	for _, o := range all {
		s.has(o, "orders-db", "o1")
		if o.GetGeneration() != 2 {
			t.Errorf("%T has the generation %d, want one change after its creation", o, o.GetGeneration())
		}
		const ours = `{"f:spec":{"f:template":{"f:metadata":{"f:annotations":{"f:rollout.leasekeeper.io/orders-db":{}}}}}}`
		if fields := managed(o); fields != ours {
			t.Errorf("%T: leasekeeper manages %s", o, fields)
		}
	}
}

// managed are the fields that belong to the stamps' manager.
func managed(o client.Object) string {
	for _, m := range o.GetManagedFields() {
		if m.Manager == string(Manager) {
			return m.FieldsV1.GetRawString()
		}
	}
	return "nothing"
}

func TestTwoCredentialsOfOneWorkloadAreOneChange(t *testing.T) {
	s := newShop(t)
	shared := deployment("orders", "orders-db", "billing-db")
	s.create(shared)
	orders, billing := discovering("orders-db", "o1"), discovering("billing-db", "")
	says(t, s.follow(orders, true, billing), v1alpha1.ReasonRollingOut, "Deployment/orders waits for other credentials that it uses")
	s.has(shared)
	billing.Stamp = "b1"
	if p := s.follow(billing, true, orders); p.Stamped != 1 {
		t.Errorf("got %+v", p)
	}
	if p := s.follow(orders, true, billing); p.Stamped != 0 {
		t.Errorf("got %+v", p)
	}
	s.has(shared, "orders-db", "o1", "billing-db", "b1")
	if shared.Generation != 2 {
		t.Errorf("generation %d", shared.Generation)
	}
}

func TestAStampOutlivesTheNextOfAnotherSecretAndTheAuthorsApplies(t *testing.T) {
	s := newShop(t)
	// The author's own way of applying goes on as it began.
	for _, flags := range [][]string{{}, {"--server-side"}} {
		author := deployment("orders"+strings.Join(flags, ""), "orders-db", "billing-db")
		author.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
		author.Namespace = s.namespace
		manifest := t.TempDir() + "/deployment.yaml"
		text, err := yaml.Marshal(author)
		s.check(err)
		s.check(os.WriteFile(manifest, text, 0o600))
		apply := func() {
			_, err := bed.plane.Kubectl(t.Context(), append([]string{"apply", "-f", manifest}, flags...)...)
			s.check(err)
		}
		apply()
		s.follow(discovering("billing-db", "b1"), false)
		s.follow(discovering("orders-db", "o1"), false, discovering("billing-db", ""))
		apply()
		s.has(author, "orders-db", "o1", "billing-db", "b1")
		if author.Generation != 3 {
			t.Errorf("%v: generation %d, want two changes after the creation", flags, author.Generation)
		}
		_, err = bed.plane.Kubectl(t.Context(), "rollout", "restart", "deployment/"+author.Name, "-n", s.namespace)
		s.check(err)
		s.follow(discovering("orders-db", "o2"), false)
		s.has(author, "orders-db", "o2", "billing-db", "b1")
		if annotations(author)["kubectl.kubernetes.io/restartedAt"] == "" {
			t.Errorf("%v: the stamp took the mark of kubectl rollout restart away", flags)
		}
		s.check(bed.admin.Delete(t.Context(), author))
	}
}

func TestTwoWorkersDoNotUndoEachOther(t *testing.T) {
	s := newShop(t)
	shared := deployment("orders", "orders-db", "billing-db")
	s.create(shared)
	once := true
	m := &meddler{Client: bed.keeper, before: func() {
		if once {
			once = false
			s.follow(discovering("billing-db", "b1"), false)
		}
	}}
	if p := s.followBy(&Rollouts{Reader: bed.keeper, Writer: m}, discovering("orders-db", "o1"), false); p.Stamped != 1 || m.applies < 2 {
		t.Errorf("%d applies, %+v", m.applies, p)
	}
	s.has(shared, "orders-db", "o1", "billing-db", "b1")
}

func TestAWorkloadThatIsDeletedBeforeItsStampIsNotCreated(t *testing.T) {
	s := newShop(t)
	orders := deployment("orders", "orders-db")
	orders.Spec.Replicas = ptr.To[int32](0)
	s.create(orders)
	m := &meddler{Client: bed.keeper, before: func() { s.check(bed.admin.Delete(t.Context(), orders)) }}
	if p := s.followBy(&Rollouts{Reader: bed.keeper, Writer: m}, discovering("orders-db", "o1"), false); !p.Done || p.Stamped != 0 || m.applies != 1 {
		t.Errorf("%d applies, %+v", m.applies, p)
	}
	if err := bed.admin.Get(t.Context(), client.ObjectKeyFromObject(orders), orders); !apierrors.IsNotFound(err) {
		t.Errorf("it is there: %v", err)
	}
}

func TestTheControllersStatusIsUnderstood(t *testing.T) {
	s := newShop(t)
	none := deployment("none", "orders-db")
	none.Spec.Replicas = ptr.To[int32](0)
	s.create(none, daemonSet("nowhere", "orders-db")) // there are no nodes
	s.reaches(discovering("orders-db", "o1"), "")

	stopped := deployment("stopped", "stopped-db")
	stopped.Spec.Paused = true
	s.create(stopped)
	s.reaches(discovering("stopped-db", "s1"), v1alpha1.ReasonRolloutPaused, "Deployment/stopped is paused")

	s.create(deployment("begun", "begun-db"))
	s.reaches(discovering("begun-db", "s1"), v1alpha1.ReasonRollingOut, "Deployment/begun: old pods still there: 1")

	s.create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")},
	}}, deployment("refused", "refused-db"))
	s.reaches(discovering("refused-db", "s1"), v1alpha1.ReasonRolloutStuck, "Deployment/refused: 0 of 1 pods updated", "exceeded quota")
}

// reaches waits until Follow tells the reason; empty: it is done.
func (s shop) reaches(c Consumer, reason string, waiting ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("the roll-out is %q %q", reason, waiting), func() error {
		p := s.follow(c, false)
		all := strings.Join(p.Waiting, "\n")
		for _, w := range waiting {
			if !strings.Contains(all, w) {
				return fmt.Errorf("got %+v", p)
			}
		}
		if p.Reason != reason || p.Done != (reason == "") {
			return fmt.Errorf("got %+v", p)
		}
		return nil
	})
}

func TestABarePodHoldsTheLeaseUntilItIsGone(t *testing.T) {
	s := newShop(t)
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: using("bare", "orders-db").Spec}
	s.create(bare)
	says(t, s.follow(discovering("orders-db", "o1"), false), v1alpha1.ReasonRollingOut, "Pod/bare started before the new credential")
	s.check(bed.admin.Delete(t.Context(), bare, client.GracePeriodSeconds(0)))
	if p := s.follow(discovering("orders-db", "o1"), false); !p.Done {
		t.Errorf("got %+v", p)
	}
}

// account is a client that may do these things with Deployments, and list pods.
func (s shop) account(verbs ...string) client.Client {
	s.Helper()
	s.create(
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "half"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "half"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: verbs}}},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "half"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "half"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.namespace, Name: "half"}},
		},
	)
	c, err := clientOf(s.Context(), s.namespace, "half")
	s.check(err)
	return c
}

func TestTheRightThatIsMissingIsNamedAsTheAPIServerRefusesIt(t *testing.T) {
	who := naming("orders-db", "o1", target("", "orders"))
	for _, c := range []struct {
		verbs []string
		want  string
	}{
		{[]string{"watch"}, "get deployments.apps"},
		{[]string{"get"}, "patch deployments.apps"},
		{[]string{"get", "patch"}, "list pods"},
	} {
		t.Run(c.want, func(t *testing.T) {
			s := newShop(t)
			s.create(deployment("orders", "orders-db"))
			half := s.account(c.verbs...)
			// The authorizer sees a new role a little later.
			s.eventually("the right is named", func() error {
				p := s.followBy(&Rollouts{Reader: half, Writer: half}, who, false)
				if p.Reason != v1alpha1.ReasonRolloutForbidden || len(p.Waiting) != 1 || p.Waiting[0] != c.want {
					return fmt.Errorf("got %+v", p)
				}
				return nil
			})
		})
	}
}

func argo(name string, spec map[string]any) *unstructured.Unstructured {
	r := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": map[string]any{"name": name}, "spec": spec}}
	return r
}

// The kind comes and goes while leasekeeper runs: a mapper that remembered its absence would not find it, and one that
// remembers its presence is told that there is no such path.
func TestArgoRolloutsAreFoundWhileTheirKindIsThere(t *testing.T) {
	s := newShop(t)
	named := naming("orders-db", "o1", target(v1alpha1.KindRollout, "orders"))
	fresh, err := clientOf(t.Context(), testbed.ManagerNamespace, testbed.ManagerAccount)
	s.check(err)
	says(t, s.followBy(&Rollouts{Reader: fresh, Writer: fresh}, named, false), v1alpha1.ReasonRolloutTargetNotFound, "Rollout/orders does not exist: the cluster has no rollouts.argoproj.io")
	if p := s.follow(discovering("orders-db", "o1"), false); !p.Done {
		t.Errorf("without the kind there is nothing to discover, got %+v", p)
	}

	_, err = bed.plane.Kubectl(t.Context(), "create", "-f", "testdata/argo_rollouts_crd.yaml")
	s.check(err)
	_, err = bed.plane.Kubectl(t.Context(), "wait", "--for=condition=Established", "crd/rollouts.argoproj.io", "--timeout=30s")
	s.check(err)
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ptr.To(using("orders", "orders-db")))
	s.check(err)
	delete(template["metadata"].(map[string]any), "creationTimestamp")
	orders := argo("orders", map[string]any{
		"replicas": int64(1), "selector": map[string]any{"matchLabels": map[string]any{"app": "orders"}}, "template": template,
	})
	s.create(orders, argo("lent", map[string]any{"workloadRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "lender"}}))

	for range 2 {
		says(t, s.follow(discovering("orders-db", "o1"), false), v1alpha1.ReasonRollingOut, "Rollout/orders: its controller has not seen the change yet")
	}
	s.get(orders)
	stamp, _, _ := unstructured.NestedString(orders.Object, "spec", "template", "metadata", "annotations", StampKey("orders-db"))
	if stamp != "o1" || orders.GetGeneration() != 2 {
		t.Errorf("stamp %q, generation %d", stamp, orders.GetGeneration())
	}

	status := map[string]any{"observedGeneration": "2", "phase": "Healthy", "replicas": int64(1), "updatedReplicas": int64(1), "availableReplicas": int64(1)}
	s.check(unstructured.SetNestedMap(orders.Object, status, "status"))
	s.check(bed.admin.Status().Update(t.Context(), orders))
	if p := s.follow(named, false); !p.Done {
		t.Errorf("got %+v", p)
	}
	says(t, s.follow(naming("orders-db", "o1", target(v1alpha1.KindRollout, "lent")), false), v1alpha1.ReasonRolloutPaused, "Rollout/lent takes its pod template from Deployment/lender")

	_, err = bed.plane.Kubectl(t.Context(), "delete", "crd", "rollouts.argoproj.io", "--timeout=60s")
	s.check(err)
	s.reaches(discovering("orders-db", "o1"), "")
	s.reaches(named, v1alpha1.ReasonRolloutTargetNotFound, "Rollout/orders does not exist")
}

func TestAServerThatIsAwayIsAnError(t *testing.T) {
	s := newShop(t)
	s.create(deployment("orders", "orders-db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p, err := (&Rollouts{Reader: bed.keeper, Writer: bed.keeper}).Follow(ctx, Consumer{Namespace: s.namespace, Secret: "orders-db", Stamp: "o1", Spec: v1alpha1.RolloutSpec{Discover: true}}, time.Now(), nil, false)
	if !errors.Is(err, context.Canceled) || p.Done {
		t.Errorf("got %+v and %v", p, err)
	}
}
