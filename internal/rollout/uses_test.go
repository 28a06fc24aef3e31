package rollout

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func volume(v corev1.VolumeSource) corev1.PodSpec {
	return corev1.PodSpec{Volumes: []corev1.Volume{{Name: "other"}, {Name: "v", VolumeSource: v}}}
}

func projected(sources ...corev1.VolumeProjection) corev1.PodSpec {
	return volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}})
}

func projection(name string) corev1.VolumeProjection {
	return corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}
}

func env(name string) corev1.Container {
	return corev1.Container{Env: []corev1.EnvVar{{Name: "PLAIN", Value: name}, {Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "password"},
	}}}}
}

func envFrom(name string) corev1.Container {
	return corev1.Container{EnvFrom: []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}},
	}}
}

func TestAPodUsesASecret(t *testing.T) {
	csi := func(name string) corev1.PodSpec {
		return volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: name}}})
	}
	pull := corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "other"}, {Name: "orders-db"}}}
	for _, c := range []struct {
		it            string
		spec          corev1.PodSpec
		starts, holds bool
	}{
		{"by a volume", volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "orders-db"}}), true, true},
		{"not by a volume of another", volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "orders"}}), false, false},
		{"by the second source of a projected volume", projected(projection("other"), projection("orders-db")), true, true},
		{"not by a projected token or another Secret", projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}, projection("other")), false, false},
		{"by a CSI driver's login", csi("orders-db"), true, true},
		{"not by a CSI driver's other login", csi("other"), false, false},
		{"not by a ConfigMap of its name", volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "orders-db"}}}), false, false},
		{"by a variable of the second container", corev1.PodSpec{Containers: []corev1.Container{{}, env("orders-db")}}, true, true},
		{"not by a variable that only has its name", corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "A", Value: "orders-db"}}}}}, false, false},
		{"by the whole environment of an init container", corev1.PodSpec{InitContainers: []corev1.Container{envFrom("orders-db")}}, true, true},
		{"by an ephemeral container", corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(env("orders-db"))}}}, true, true},
		{"to pull its images, which holds no credential", pull, true, false},
		{"not where it uses another in every way", corev1.PodSpec{Containers: []corev1.Container{env("other"), envFrom("other")}}, false, false},
	} {
		t.Run(c.it, func(t *testing.T) {
			if got := startsWith(&c.spec, "orders-db"); got != c.starts {
				t.Errorf("starts with it: %v", got)
			}
			if got := holds(&c.spec, "orders-db"); got != c.holds {
				t.Errorf("holds it: %v", got)
			}
		})
	}
}
