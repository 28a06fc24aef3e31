package rollout

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func volume(v corev1.VolumeSource) corev1.PodSpec {
	return corev1.PodSpec{Volumes: []corev1.Volume{{Name: "other"}, {Name: "v", VolumeSource: v}}}
}

func reference(name string) corev1.LocalObjectReference {
	return corev1.LocalObjectReference{Name: name}
}

func projected(sources ...corev1.VolumeProjection) corev1.PodSpec {
	return volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}})
}

func projection(name string) corev1.VolumeProjection {
	return corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: reference(name)}}
}

func env(name string) corev1.Container {
	return corev1.Container{Env: []corev1.EnvVar{{Name: "PLAIN", Value: name},
		{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: reference(name),
				Key: "password"},
		}}}}
}

func envFrom(name string) corev1.Container {
	return corev1.Container{EnvFrom: []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: reference(name)}},
	}}
}

func TestPodUsesSecret(t *testing.T) {
	csi := func(name string) corev1.PodSpec {
		ref := reference(name)
		return volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &ref}})
	}
	configMap := corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: reference("orders-db")},
	}
	ephemeral := corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon(env("orders-db")),
	}
	pull := corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "other"}, {Name: "orders-db"}}}
	for _, c := range []struct {
		name        string
		spec        corev1.PodSpec
		uses, holds bool
	}{
		{"volume", volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "orders-db"}}), true,
			true},
		{"volume of another Secret",
			volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "orders"}}), false, false},
		{"second source of a projected volume", projected(projection("other"), projection("orders-db")), true, true},
		{"projected token and another Secret",
			projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}},
				projection("other")), false, false},
		{"CSI driver's Secret", csi("orders-db"), true, true},
		{"CSI driver's other Secret", csi("other"), false, false},
		{"ConfigMap with the same name", volume(configMap), false, false},
		{"variable of the second container", corev1.PodSpec{Containers: []corev1.Container{{}, env("orders-db")}}, true,
			true},
		{"variable with the Secret's name as value",
			corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "A",
				Value: "orders-db"}}}}}, false, false},
		{"envFrom of an init container", corev1.PodSpec{InitContainers: []corev1.Container{envFrom("orders-db")}}, true,
			true},
		{"ephemeral container", corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{ephemeral}},
			true, true},
		{"image pull secret", pull, true, false},
		{"another Secret in each way", corev1.PodSpec{Containers: []corev1.Container{env("other"), envFrom("other")}},
			false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := uses(&c.spec, "orders-db"); got != c.uses {
				t.Errorf("uses() = %v", got)
			}
			if got := holds(&c.spec, "orders-db"); got != c.holds {
				t.Errorf("holds() = %v", got)
			}
		})
	}
}
