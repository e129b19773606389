package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "rwx.linbit.com", Version: "v1alpha1"}

// Kind is the kind of an NFSExport, for owner references and events.
var Kind = GroupVersion.WithKind("NFSExport")

// Resource is the REST resource of NFSExports.
var Resource = GroupVersion.WithResource("nfsexports")

// AddToScheme adds the types of this package to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &NFSExport{}, &NFSExportList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
