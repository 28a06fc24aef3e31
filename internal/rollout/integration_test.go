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

// bed has real controllers but no nodes. Rollouts begin, but pods never run.
var bed struct {
	plane *testbed.ControlPlane
	// admin is an administrator. keeper has the permissions of config/rollout.
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

// clientOf returns a client with the permissions of a ServiceAccount.
func clientOf(ctx context.Context, namespace, name string) (client.Client, error) {
	config, err := bed.plane.ConfigForServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{})
}

// shop is a namespace for one test.
type shop struct {
	*testing.T
	namespace string
}

var serial int

func newShop(t *testing.T) shop {
	serial++
	s := shop{t, fmt.Sprintf("shop-%d", serial)}
	s.check(bed.admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}))
	s.eventually("default ServiceAccount", func() error {
		return bed.admin.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: "default"},
			&corev1.ServiceAccount{})
	})
	return s
}

func (s shop) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// eventually polls for up to a minute.
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

// create creates fixtures in the shop.
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

// expectStamps compares the stamps of a template with pairs of Secret and stamp.
func (s shop) expectStamps(o client.Object, pairs ...string) {
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
	return s.followWith(&Rollouts{Reader: bed.keeper, Writer: bed.keeper}, c, hold, others...)
}

func (s shop) followWith(r *Rollouts, c Consumer, hold bool, others ...Consumer) Progress {
	s.Helper()
	c.Namespace = s.namespace
	p, err := r.Follow(s.Context(), c, time.Now(), others, hold)
	s.check(err)
	return p
}

// interleaver calls before ahead of each apply.
type interleaver struct {
	client.Client
	applies int
	before  func()
}

func (m *interleaver) Apply(ctx context.Context, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	m.applies++
	m.before()
	return m.Client.Apply(ctx, o, opts...)
}

func TestStampChangesTemplateOnce(t *testing.T) {
	s := newShop(t)
	all := []client.Object{
		deployment("orders", "orders-db"), statefulSet("orders", "orders-db"), daemonSet("orders", "orders-db"),
	}
	s.create(all...)
	p := s.follow(discoverConsumer("orders-db", "o1"), false)
	if len(p.Stamped) != 3 || p.Done || p.Reason != v1alpha1.ReasonRollingOut {
		t.Errorf("got %+v", p)
	}
	for range 3 {
		if p := s.follow(discoverConsumer("orders-db", "o1"), false); len(p.Stamped) != 0 {
			t.Errorf("stamped again: %+v", p)
		}
	}
	for _, o := range all {
		s.expectStamps(o, "orders-db", "o1")
		if o.GetGeneration() != 2 {
			t.Errorf("%T has generation %d, want one change after creation", o, o.GetGeneration())
		}
		const stampFields = `{"f:spec":{"f:template":{"f:metadata":` +
			`{"f:annotations":{"f:rollout.leasekeeper.io/orders-db":{}}}}}}`
		if fields := managed(o); fields != stampFields {
			t.Errorf("%T: leasekeeper owns %s", o, fields)
		}
	}
}

// managed returns the fields owned by the stamps' field manager.
func managed(o client.Object) string {
	for _, m := range o.GetManagedFields() {
		if m.Manager == string(Manager) {
			return m.FieldsV1.GetRawString()
		}
	}
	return "nothing"
}

func TestTwoCredentialsCauseOneRollout(t *testing.T) {
	s := newShop(t)
	shared := deployment("orders", "orders-db", "billing-db")
	s.create(shared)
	orders, billing := discoverConsumer("orders-db", "o1"), discoverConsumer("billing-db", "")
	expectProgress(t, s.follow(orders, true, billing), v1alpha1.ReasonRollingOut,
		"Deployment/orders waits for its other credentials")
	s.expectStamps(shared)
	billing.Stamp = "b1"
	if p := s.follow(billing, true, orders); len(p.Stamped) != 1 {
		t.Errorf("got %+v", p)
	}
	if p := s.follow(orders, true, billing); len(p.Stamped) != 0 {
		t.Errorf("got %+v", p)
	}
	s.expectStamps(shared, "orders-db", "o1", "billing-db", "b1")
	if shared.Generation != 2 {
		t.Errorf("generation %d", shared.Generation)
	}
}

func TestStampSurvivesOtherStampsAndApplies(t *testing.T) {
	s := newShop(t)
	// The author uses the same kind of apply each time.
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
		s.follow(discoverConsumer("billing-db", "b1"), false)
		s.follow(discoverConsumer("orders-db", "o1"), false, discoverConsumer("billing-db", ""))
		apply()
		s.expectStamps(author, "orders-db", "o1", "billing-db", "b1")
		if author.Generation != 3 {
			t.Errorf("%v: generation %d, want two changes after creation", flags, author.Generation)
		}
		_, err = bed.plane.Kubectl(t.Context(), "rollout", "restart", "deployment/"+author.Name, "-n", s.namespace)
		s.check(err)
		s.follow(discoverConsumer("orders-db", "o2"), false)
		s.expectStamps(author, "orders-db", "o2", "billing-db", "b1")
		if annotations(author)["kubectl.kubernetes.io/restartedAt"] == "" {
			t.Errorf("%v: the stamp removed the annotation of kubectl rollout restart", flags)
		}
		s.check(bed.admin.Delete(t.Context(), author))
	}
}

func TestConcurrentStampsAreKept(t *testing.T) {
	s := newShop(t)
	shared := deployment("orders", "orders-db", "billing-db")
	s.create(shared)
	once := true
	in := &interleaver{Client: bed.keeper, before: func() {
		if once {
			once = false
			s.follow(discoverConsumer("billing-db", "b1"), false)
		}
	}}
	p := s.followWith(&Rollouts{Reader: bed.keeper, Writer: in}, discoverConsumer("orders-db", "o1"), false)
	if len(p.Stamped) != 1 || in.applies < 2 {
		t.Errorf("%d applies, %+v", in.applies, p)
	}
	s.expectStamps(shared, "orders-db", "o1", "billing-db", "b1")
}

func TestStampDoesNotRecreateDeletedWorkload(t *testing.T) {
	s := newShop(t)
	orders := deployment("orders", "orders-db")
	orders.Spec.Replicas = ptr.To[int32](0)
	s.create(orders)
	in := &interleaver{Client: bed.keeper, before: func() { s.check(bed.admin.Delete(t.Context(), orders)) }}
	p := s.followWith(&Rollouts{Reader: bed.keeper, Writer: in}, discoverConsumer("orders-db", "o1"), false)
	if !p.Done || len(p.Stamped) != 0 || in.applies != 1 {
		t.Errorf("%d applies, %+v", in.applies, p)
	}
	if err := bed.admin.Get(t.Context(), client.ObjectKeyFromObject(orders), orders); !apierrors.IsNotFound(err) {
		t.Errorf("the workload exists: %v", err)
	}
}

func TestReportsRealControllerStatus(t *testing.T) {
	s := newShop(t)
	none := deployment("none", "orders-db")
	none.Spec.Replicas = ptr.To[int32](0)
	s.create(none, daemonSet("nowhere", "orders-db")) // there are no nodes
	s.awaitProgress(discoverConsumer("orders-db", "o1"), "")

	stopped := deployment("stopped", "stopped-db")
	stopped.Spec.Paused = true
	s.create(stopped)
	s.awaitProgress(discoverConsumer("stopped-db", "s1"), v1alpha1.ReasonRolloutPaused, "Deployment/stopped is paused")

	s.create(deployment("begun", "begun-db"))
	s.awaitProgress(discoverConsumer("begun-db", "s1"), v1alpha1.ReasonRollingOut,
		"Deployment/begun: old pods remaining: 1")

	s.create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")},
	}}, deployment("refused", "refused-db"))
	s.awaitProgress(discoverConsumer("refused-db", "s1"), v1alpha1.ReasonRolloutStuck,
		"Deployment/refused: 0 of 1 pods updated", "exceeded quota")
}

// awaitProgress waits until Follow reports the reason, or is done if the reason is empty.
func (s shop) awaitProgress(c Consumer, reason string, waiting ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("rollout %q %q", reason, waiting), func() error {
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

func TestBarePodKeepsTheOldLease(t *testing.T) {
	s := newShop(t)
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: podTemplate("bare", "orders-db").Spec}
	s.create(bare)
	expectProgress(t, s.follow(discoverConsumer("orders-db", "o1"), false), v1alpha1.ReasonRollingOut,
		"Pod/bare started before the new credential")
	s.check(bed.admin.Delete(t.Context(), bare, client.GracePeriodSeconds(0)))
	if p := s.follow(discoverConsumer("orders-db", "o1"), false); !p.Done {
		t.Errorf("got %+v", p)
	}
}

// account returns a client with these verbs on Deployments.
func (s shop) account(verbs ...string) client.Client {
	s.Helper()
	s.create(
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "restricted"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "restricted"},
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"},
				Verbs: verbs}}},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "restricted"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "restricted"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.namespace, Name: "restricted"}},
		},
	)
	c, err := clientOf(s.Context(), s.namespace, "restricted")
	s.check(err)
	return c
}

func TestNamesMissingPermissionOfRealAPIServer(t *testing.T) {
	consumer := targetConsumer("orders-db", "o1", target("", "orders"))
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
			restricted := s.account(c.verbs...)
			// The authorizer observes a new role with a delay.
			s.eventually("the permission to be named", func() error {
				p := s.followWith(&Rollouts{Reader: restricted, Writer: restricted}, consumer, false)
				if p.Reason != v1alpha1.ReasonRolloutForbidden || len(p.Waiting) != 1 || p.Waiting[0] != c.want {
					return fmt.Errorf("got %+v", p)
				}
				return nil
			})
		})
	}
}

func argo(name string, spec map[string]any) *unstructured.Unstructured {
	r := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
		"metadata": map[string]any{"name": name}, "spec": spec}}
	return r
}

// The CRD is created and deleted while leasekeeper runs. The REST mapper must not cache either state.
func TestArgoRolloutsWhileTheCRDExists(t *testing.T) {
	s := newShop(t)
	named := targetConsumer("orders-db", "o1", target(v1alpha1.KindRollout, "orders"))
	fresh, err := clientOf(t.Context(), testbed.ManagerNamespace, testbed.ManagerAccount)
	s.check(err)
	expectProgress(t, s.followWith(&Rollouts{Reader: fresh, Writer: fresh}, named, false),
		v1alpha1.ReasonRolloutTargetNotFound, "Rollout/orders does not exist: the cluster has no rollouts.argoproj.io")
	if p := s.follow(discoverConsumer("orders-db", "o1"), false); !p.Done {
		t.Errorf("got %+v, want it done without the CRD", p)
	}

	_, err = bed.plane.Kubectl(t.Context(), "create", "-f", "testdata/argo_rollouts_crd.yaml")
	s.check(err)
	_, err = bed.plane.Kubectl(t.Context(), "wait", "--for=condition=Established", "crd/rollouts.argoproj.io",
		"--timeout=30s")
	s.check(err)
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ptr.To(podTemplate("orders", "orders-db")))
	s.check(err)
	delete(template["metadata"].(map[string]any), "creationTimestamp")
	orders := argo("orders", map[string]any{
		"replicas": int64(1), "template": template,
		"selector": map[string]any{"matchLabels": map[string]any{"app": "orders"}},
	})
	lender := map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "lender"}
	s.create(orders, argo("borrower", map[string]any{"workloadRef": lender}))

	for range 2 {
		expectProgress(t, s.follow(discoverConsumer("orders-db", "o1"), false), v1alpha1.ReasonRollingOut,
			"Rollout/orders: controller has not observed the change yet")
	}
	s.get(orders)
	stamp, _, _ := unstructured.NestedString(orders.Object, "spec", "template", "metadata", "annotations",
		StampKey("orders-db"))
	if stamp != "o1" || orders.GetGeneration() != 2 {
		t.Errorf("stamp %q, generation %d", stamp, orders.GetGeneration())
	}

	status := map[string]any{"observedGeneration": "2", "phase": "Healthy", "replicas": int64(1),
		"updatedReplicas": int64(1), "availableReplicas": int64(1)}
	s.check(unstructured.SetNestedMap(orders.Object, status, "status"))
	s.check(bed.admin.Status().Update(t.Context(), orders))
	if p := s.follow(named, false); !p.Done {
		t.Errorf("got %+v", p)
	}
	expectProgress(t, s.follow(targetConsumer("orders-db", "o1", target(v1alpha1.KindRollout, "borrower")), false),
		v1alpha1.ReasonRolloutPaused, "Rollout/borrower uses the pod template of Deployment/lender")

	_, err = bed.plane.Kubectl(t.Context(), "delete", "crd", "rollouts.argoproj.io", "--timeout=60s")
	s.check(err)
	s.awaitProgress(discoverConsumer("orders-db", "o1"), "")
	s.awaitProgress(named, v1alpha1.ReasonRolloutTargetNotFound, "Rollout/orders does not exist")
}

func TestUnavailableAPIServerIsAnError(t *testing.T) {
	s := newShop(t)
	s.create(deployment("orders", "orders-db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := discoverConsumer("orders-db", "o1")
	c.Namespace = s.namespace
	p, err := (&Rollouts{Reader: bed.keeper, Writer: bed.keeper}).Follow(ctx, c, time.Now(), nil, false)
	if !errors.Is(err, context.Canceled) || p.Done {
		t.Errorf("got %+v and %v", p, err)
	}
}
