package testbed

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sort"
)

// RenderChart returns the manifests of the chart for the manager's namespace. root is that of the repository; values
// are as for helm's --set. It needs `make tools`.
func RenderChart(ctx context.Context, root string, values ...string) (string, error) {
	found, _ := filepath.Glob(filepath.Join(root, "bin", "helm-v*"))
	if len(found) == 0 {
		return "", errors.New("there is no helm in bin/: run make tools")
	}
	sort.Strings(found)
	args := []string{
		"template", "leasekeeper", filepath.Join(root, "charts", "leasekeeper"), "--namespace=" + ManagerNamespace,
		"--kube-version=1.33", "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
	}
	for _, value := range values {
		args = append(args, "--set="+value)
	}
	out, err := exec.CommandContext(ctx, found[len(found)-1], args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("helm: %w\n%s", err, out)
	}
	return string(out), nil
}
