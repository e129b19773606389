package supervisor

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

const protocolTCP = corev1.ProtocolTCP

// events tells the owner of an export and the owner of its claim what happened.
type events struct {
	recorder record.EventRecorder
}

func (e events) normal(export *v1alpha1.NFSExport, reason, message string) {
	e.send(export, corev1.EventTypeNormal, reason, message)
}

func (e events) warning(export *v1alpha1.NFSExport, reason, message string) {
	e.send(export, corev1.EventTypeWarning, reason, message)
}

func (e events) send(export *v1alpha1.NFSExport, kind, reason, message string) {
	if export == nil {
		return
	}
	e.recorder.Event(&corev1.ObjectReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.Kind.Kind,
		Name: export.Name, UID: export.UID,
	}, kind, reason, message)
	if claim := export.Spec.Claim; claim != nil {
		e.recorder.Event(&corev1.ObjectReference{
			APIVersion: "v1", Kind: "PersistentVolumeClaim",
			Namespace: claim.Namespace, Name: claim.Name, UID: types.UID(claim.UID),
		}, kind, reason, "ReadWriteMany export "+export.Name+": "+message)
	}
}
