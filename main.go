// The leasekeeper manager.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
	_ "time/tzdata" // spec.rotation.windows names time zones, and the image has none

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/controllers"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/bounded"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/offsetclock"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// version is set by the linker.
var version = "dev"

// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=leasekeeper-system,resources=leases,verbs=get;create;update
// +kubebuilder:rbac:groups="",namespace=leasekeeper-system,resources=events,verbs=create;patch

// shutdownGrace is how long a shutdown waits for issuances in progress, so that what they return is published. Then it
// releases the leader election lease, and the next leader revokes what the journal has of the rest.
const shutdownGrace = 12 * time.Second

type flags struct {
	metricsAddress, probeAddress string
	pprofAddress                 string
	leaderElect                  bool
	leaderElectNamespace         string
	leaseDuration, renewDeadline time.Duration
	retryPeriod                  time.Duration
	concurrency                  int
	qps                          float64
	burst                        int
	kubeTimeout                  time.Duration
	requestLimit                 time.Duration
	backendTimeout, issueTimeout time.Duration
	providerInterval             time.Duration
	providerRetry                time.Duration
	verifyInterval               time.Duration
	allowedAddresses             vault.Hosts
	namespaces                   []string
	clusterKinds                 bool
	rollout                      bool
	rolloutWindow                time.Duration
	printVersion                 bool
	log                          zap.Options
}

func parse() flags {
	var f flags
	flag.StringVar(&f.metricsAddress, "metrics-bind-address", ":8080",
		"Address of the metrics endpoint; 0 disables it.")
	flag.StringVar(&f.probeAddress, "health-probe-bind-address", ":8081",
		"Address of the health and readiness endpoints.")
	flag.StringVar(&f.pprofAddress, "pprof-bind-address", "",
		"Address of Go's profiling endpoint; empty disables it. A heap profile may contain credentials: "+
			"bind it to 127.0.0.1.")
	flag.BoolVar(&f.leaderElect, "leader-elect", true, "Elect a leader, so that one replica works at a time.")
	flag.StringVar(&f.leaderElectNamespace, "leader-election-namespace", "",
		"Namespace of the leader election lease; empty: the manager's own.")
	flag.DurationVar(&f.leaseDuration, "leader-election-lease-duration", 15*time.Second,
		"How long other replicas wait before they replace a leader that does not respond.")
	flag.DurationVar(&f.renewDeadline, "leader-election-renew-deadline", 10*time.Second,
		"How long a leader tries to renew the leader election lease before it stops.")
	flag.DurationVar(&f.retryPeriod, "leader-election-retry-period", 2*time.Second,
		"Pause between attempts to get the leader election lease.")
	flag.IntVar(&f.concurrency, "concurrency", 32, "Number of DynamicSecrets that are processed at the same time.")
	flag.Float64Var(&f.qps, "kube-api-qps", 300, "Requests per second to the API server.")
	flag.IntVar(&f.burst, "kube-api-burst", 600, "Burst of requests to the API server.")
	flag.DurationVar(&f.kubeTimeout, "kube-api-timeout", 30*time.Second,
		"Time-out of a request to the API server, except watches.")
	flag.DurationVar(&f.requestLimit, "request-limit", 150*time.Second,
		"How long a backend may continue with an issuance after leasekeeper has stopped waiting. It must be at least "+
			"one and a half times Vault's max_request_duration (90s): the clocks of replicas may differ by a fifth "+
			"of it.")
	flag.DurationVar(&f.backendTimeout, "backend-timeout", 10*time.Second,
		"Time-out of a request to a backend, except issuances.")
	flag.DurationVar(&f.issueTimeout, "issue-timeout", time.Minute,
		"Time-out of an issuance. At most two thirds of --request-limit.")
	flag.DurationVar(&f.providerInterval, "provider-interval", time.Minute,
		"Pause between inspections of a provider that is ready.")
	flag.DurationVar(&f.providerRetry, "provider-retry-interval", 2*time.Second,
		"Pause after the first inspection of a provider that is not ready. It doubles up to eight times that.")
	flag.DurationVar(&f.verifyInterval, "verify-interval", 30*time.Second,
		"Pause between two checks of all leases, which detect leases that somebody else revoked.")
	flag.Func("allowed-addresses", "Hosts that leasekeeper connects to as a backend or as its proxy, separated by "+
		"commas: names (vault.example, *.vault.svc), IP addresses and CIDRs. Addresses are checked after names are "+
		"resolved. Empty: all, except loopback, link-local and multicast addresses and the metadata services of "+
		"clouds. An entry allows one of those only if it names no other addresses: 127.0.0.1, not 0.0.0.0/0.",
		func(list string) (err error) {
			f.allowedAddresses, err = vault.ParseHosts(entries(list))
			return err
		})
	flag.Func("namespaces", "Namespaces to serve, separated by commas. leasekeeper then needs rights in these only: "+
		"scope.namespaces in the chart. Empty: all.",
		func(list string) error {
			f.namespaces = entries(list)
			return nil
		})
	flag.BoolVar(&f.clusterKinds, "cluster-kinds", true,
		"Serve ClusterSecretProviders and LeaseRevocations. It requires rights in the whole cluster for these kinds, "+
			"and to read namespaces.")
	flag.BoolVar(&f.rollout, "rollout", false,
		"Restart workloads as spec.rollout requests. It requires permission to list and patch them: rollout.enabled "+
			"in the chart.")
	flag.DurationVar(&f.rolloutWindow, "rollout-window", 30*time.Second,
		"How long a workload that uses several Secrets waits until the others are replaced too, so that it restarts "+
			"once. It waits less if the old lease ends earlier.")
	flag.BoolVar(&f.printVersion, "version", false, "Print the version and exit.")
	f.log.BindFlags(flag.CommandLine)
	flag.Parse()
	return f
}

func main() {
	f := parse()
	if f.printVersion {
		fmt.Println(version)
		return
	}
	if os.Getenv("GOGC") == "" {
		// Thousands of cached objects make up most of the heap, and the processor is idle most of the time. With 10,000
		// objects, this percentage of the heap is 25 MiB.
		debug.SetGCPercent(30)
	}
	if err := f.validate(); err != nil {
		fmt.Fprintln(os.Stderr, "leasekeeper:", err)
		os.Exit(2)
	}
	logger := zap.New(zap.UseFlagOptions(&f.log))
	ctrl.SetLogger(logger)
	klog.SetLogger(logger) // client-go logs there, such as the leader election
	if err := run(ctrl.SetupSignalHandler(), f); err != nil {
		ctrl.Log.Error(err, "leasekeeper stopped")
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags) error {
	now, err := offsetclock.New()
	if err != nil {
		return err
	}
	mgr, err := newManager(f)
	if err != nil {
		return err
	}
	sealKey, err := loadSealKey(ctx, mgr, f)
	if err != nil {
		return err
	}
	changes := controllers.NewProviderChanges()
	limits := backend.NewLimits(now, f.concurrency)
	backends := backend.NewRegistry(limits, backend.NewMetrics(metrics.Registry))
	backends.Register("vault", vault.NewDriver(vault.Options{
		AllowedAddresses: f.allowedAddresses,
		Changed:          changes.Note,
		Clock:            now,
		Timeout:          f.backendTimeout,
		IssueTimeout:     f.issueTimeout,
		Kube:             vault.NewKube(mgr.GetAPIReader(), mgr.GetClient()),
	}))
	setup := controllers.Setup{
		Clock:                 now,
		Backends:              backends,
		Limits:                limits,
		Changes:               changes,
		Registry:              metrics.Registry,
		RequestLimit:          f.requestLimit,
		Concurrency:           f.concurrency,
		ProviderInterval:      f.providerInterval,
		ProviderRetryInterval: f.providerRetry,
		ProbeDelay:            vault.FirstProbe,
		VerifyInterval:        f.verifyInterval,
		SealKey:               sealKey,
		Rollout:               f.rollout,
		RolloutWindow:         f.rolloutWindow,
		Scope:                 controllers.Scope{Namespaces: f.namespaces, NamespacedOnly: !f.clusterKinds},
	}
	if err := setup.WithManager(ctx, mgr); err != nil {
		return err
	}
	ctrl.Log.Info("starting", "version", version)
	err = mgr.Start(ctx)
	closing, cancel := context.WithTimeout(context.Background(), f.backendTimeout)
	defer cancel()
	return errors.Join(err, backends.Close(closing))
}

// loadSealKey reads the key from the manager's namespace: that of the leader election, or that of its pod. Outside a
// cluster there may be none; then records are not sealed.
func loadSealKey(ctx context.Context, mgr ctrl.Manager, f flags) ([]byte, error) {
	namespace := f.leaderElectNamespace
	if namespace == "" {
		text, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
		if err != nil {
			ctrl.Log.Info("ledger records are not sealed: the manager's namespace is unknown; " +
				"set --leader-election-namespace")
			return nil, nil
		}
		namespace = strings.TrimSpace(string(text))
	}
	key, err := lifecycle.LoadSealKey(ctx, mgr.GetAPIReader(), mgr.GetClient(), namespace, lifecycle.SealKeyPatience)
	if errors.Is(err, lifecycle.ErrSealRefused) {
		ctrl.Log.Error(err, "running without the key that seals ledger records: permit the Secret in the manager's "+
			"namespace, then restart the manager")
		return nil, nil
	}
	return key, err
}

func newManager(f flags) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = float32(f.qps), f.burst
	config.UserAgent = "leasekeeper/" + version
	config.Wrap(bounded.Wrap(f.kubeTimeout))
	cacheOptions, err := cacheOptions(f.namespaces)
	if err != nil {
		return nil, err
	}
	grace := shutdownGrace
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		GracefulShutdownTimeout:       &grace,
		Scheme:                        scheme,
		Cache:                         cacheOptions,
		Metrics:                       metricsserver.Options{BindAddress: f.metricsAddress},
		HealthProbeBindAddress:        f.probeAddress,
		PprofBindAddress:              f.pprofAddress,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              "leasekeeper.leasekeeper.io",
		LeaderElectionNamespace:       f.leaderElectNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &f.leaseDuration,
		RenewDeadline:                 &f.renewDeadline,
		RetryPeriod:                   &f.retryPeriod,
	})
	if err != nil {
		return nil, err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, err
	}
	return mgr, mgr.AddReadyzCheck("ping", healthz.Ping)
}

// cacheOptions limit the cache of Secrets to the metadata of those that leasekeeper wrote: it contains no credential.
// They limit all caches to the namespaces, if there are any.
func cacheOptions(namespaces []string) (cache.Options, error) {
	written, err := labels.NewRequirement(v1alpha1.OwnerLabel, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, err
	}
	metadata := &metav1.PartialObjectMetadata{}
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	var only map[string]cache.Config
	for _, namespace := range namespaces {
		if only == nil {
			only = map[string]cache.Config{}
		}
		only[namespace] = cache.Config{}
	}
	return cache.Options{
		DefaultNamespaces: only,
		DefaultTransform:  cache.TransformStripManagedFields(),
		ByObject:          map[client.Object]cache.ByObject{metadata: {Label: labels.NewSelector().Add(*written)}},
	}, nil
}
