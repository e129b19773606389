package linstor

// The JSON of LINSTOR's REST API, written down independently of golinstor so
// that a wrong field name is noticed by the client.

type propsModify struct {
	OverrideProps    map[string]string `json:"override_props"`
	DeleteProps      []string          `json:"delete_props"`
	DeleteNamespaces []string          `json:"delete_namespaces"`
}

type versionJSON struct {
	Version        string `json:"version"`
	GitHash        string `json:"git_hash"`
	BuildTime      string `json:"build_time"`
	RestAPIVersion string `json:"rest_api_version"`
}

type nodeJSON struct {
	Name             string            `json:"name"`
	Type             string            `json:"type"`
	UUID             string            `json:"uuid"`
	Props            map[string]string `json:"props"`
	Flags            []string          `json:"flags"`
	NetInterfaces    []netInterface    `json:"net_interfaces"`
	ConnectionStatus string            `json:"connection_status"`
	ResourceLayers   []string          `json:"resource_layers"`
	StorageProviders []string          `json:"storage_providers"`
}

type netInterface struct {
	Name          string `json:"name"`
	Address       string `json:"address"`
	SatellitePort int    `json:"satellite_port"`
	Encryption    string `json:"satellite_encryption_type"`
	IsActive      bool   `json:"is_active"`
	UUID          string `json:"uuid"`
}

type poolJSON struct {
	Name              string            `json:"storage_pool_name"`
	NodeName          string            `json:"node_name"`
	ProviderKind      string            `json:"provider_kind"`
	Props             map[string]string `json:"props"`
	StaticTraits      map[string]string `json:"static_traits"`
	FreeCapacity      int64             `json:"free_capacity"`
	TotalCapacity     int64             `json:"total_capacity"`
	FreeSpaceManager  string            `json:"free_space_mgr_name"`
	UUID              string            `json:"uuid"`
	SupportsSnapshots bool              `json:"supports_snapshots"`
	Reports           []Reply           `json:"reports"`
}

type groupJSON struct {
	Name         string            `json:"name"`
	Description  string            `json:"description,omitempty"`
	Props        map[string]string `json:"props"`
	SelectFilter selectFilter      `json:"select_filter"`
	UUID         string            `json:"uuid"`
}

type groupModify struct {
	Description *string `json:"description"`
	propsModify
	SelectFilter selectFilter `json:"select_filter"`
}

type selectFilter struct {
	PlaceCount            int            `json:"place_count,omitempty"`
	AdditionalPlaceCount  int            `json:"additional_place_count,omitempty"`
	NodeNameList          []string       `json:"node_name_list,omitempty"`
	StoragePool           string         `json:"storage_pool,omitempty"`
	StoragePoolList       []string       `json:"storage_pool_list,omitempty"`
	StoragePoolDiskless   []string       `json:"storage_pool_diskless_list,omitempty"`
	NotPlaceWithRsc       []string       `json:"not_place_with_rsc,omitempty"`
	NotPlaceWithRscRegex  string         `json:"not_place_with_rsc_regex,omitempty"`
	ReplicasOnSame        []string       `json:"replicas_on_same,omitempty"`
	ReplicasOnDifferent   []string       `json:"replicas_on_different,omitempty"`
	XReplicasOnDifferent  map[string]int `json:"x_replicas_on_different_map,omitempty"`
	LayerStack            []string       `json:"layer_stack,omitempty"`
	ProviderList          []string       `json:"provider_list,omitempty"`
	DisklessOnRemaining   bool           `json:"diskless_on_remaining,omitempty"`
	DisklessType          string         `json:"diskless_type,omitempty"`
	OverprovisioningRatio *float64       `json:"overprovision,omitempty"`
}

type definitionJSON struct {
	Name              string                 `json:"name"`
	ExternalName      string                 `json:"external_name,omitempty"`
	Props             map[string]string      `json:"props"`
	Flags             []string               `json:"flags"`
	LayerData         []layerJSON            `json:"layer_data"`
	UUID              string                 `json:"uuid"`
	ResourceGroupName string                 `json:"resource_group_name"`
	VolumeDefinitions []volumeDefinitionJSON `json:"volume_definitions,omitempty"`
}

type layerJSON struct {
	Type string `json:"type"`
	Data any    `json:"data,omitempty"`
}

type drbdDefinitionJSON struct {
	PeerSlots     int    `json:"peer_slots"`
	AlStripes     int    `json:"al_stripes"`
	AlStripeSize  int    `json:"al_stripe_size_kib"`
	Port          int    `json:"port"`
	TransportType string `json:"transport_type"`
	Secret        string `json:"secret"`
	Down          bool   `json:"down"`
}

type drbdVolumeDefinitionJSON struct {
	VolumeNumber int `json:"volume_number"`
	MinorNumber  int `json:"minor_number"`
}

type definitionCreate struct {
	ResourceDefinition struct {
		Name              string            `json:"name"`
		ExternalName      string            `json:"external_name"`
		Props             map[string]string `json:"props"`
		LayerData         []layerJSON       `json:"layer_data"`
		ResourceGroupName string            `json:"resource_group_name"`
	} `json:"resource_definition"`
}

type definitionModify struct {
	propsModify
	ResourceGroup string `json:"resource_group"`
}

type volumeDefinitionJSON struct {
	VolumeNumber int               `json:"volume_number"`
	SizeKiB      int64             `json:"size_kib"`
	Props        map[string]string `json:"props"`
	Flags        []string          `json:"flags"`
	LayerData    []layerJSON       `json:"layer_data"`
	UUID         string            `json:"uuid"`
}

type volumeDefinitionCreate struct {
	VolumeDefinition struct {
		VolumeNumber *int              `json:"volume_number"`
		SizeKiB      int64             `json:"size_kib"`
		Props        map[string]string `json:"props"`
	} `json:"volume_definition"`
	DrbdMinorNumber int `json:"drbd_minor_number"`
}

type volumeDefinitionModify struct {
	propsModify
	SizeKiB int64 `json:"size_kib"`
}

type resourceCreate struct {
	Resource struct {
		NodeName string            `json:"node_name"`
		Props    map[string]string `json:"props"`
		Flags    []string          `json:"flags"`
	} `json:"resource"`
}

type autoPlaceRequest struct {
	DisklessOnRemaining bool         `json:"diskless_on_remaining"`
	SelectFilter        selectFilter `json:"select_filter"`
}

type makeAvailable struct {
	Diskful bool `json:"diskful"`
}

type resourceJSON struct {
	Name            string            `json:"name"`
	NodeName        string            `json:"node_name"`
	Props           map[string]string `json:"props"`
	Flags           []string          `json:"flags"`
	LayerObject     layerObjectJSON   `json:"layer_object"`
	State           *resourceState    `json:"state"`
	UUID            string            `json:"uuid"`
	CreateTimestamp int64             `json:"create_timestamp"`
	Volumes         []volumeJSON      `json:"volumes,omitempty"`
	SharedName      string            `json:"shared_name,omitempty"`
}

type resourceState struct {
	InUse bool `json:"in_use"`
}

type layerObjectJSON struct {
	Type     string            `json:"type"`
	Children []layerObjectJSON `json:"children,omitempty"`
	Drbd     *drbdResourceJSON `json:"drbd,omitempty"`
	Storage  *struct{}         `json:"storage,omitempty"`
}

type drbdResourceJSON struct {
	NodeID         int                       `json:"node_id"`
	PeerSlots      int                       `json:"peer_slots"`
	Connections    map[string]drbdConnection `json:"connections"`
	PromotionScore int                       `json:"promotion_score"`
	MayPromote     bool                      `json:"may_promote"`
}

type drbdConnection struct {
	Connected bool   `json:"connected"`
	Message   string `json:"message"`
}

type volumeJSON struct {
	VolumeNumber     int               `json:"volume_number"`
	StoragePoolName  string            `json:"storage_pool_name"`
	ProviderKind     string            `json:"provider_kind"`
	DevicePath       string            `json:"device_path,omitempty"`
	AllocatedSizeKiB int64             `json:"allocated_size_kib"`
	UsableSizeKiB    int64             `json:"usable_size_kib,omitempty"`
	Props            map[string]string `json:"props"`
	Flags            []string          `json:"flags"`
	State            *volumeState      `json:"state"`
	UUID             string            `json:"uuid"`
	Reports          []Reply           `json:"reports,omitempty"`
}

type volumeState struct {
	DiskState string `json:"disk_state,omitempty"`
}

type snapshotJSON struct {
	Name                    string                         `json:"name"`
	ResourceName            string                         `json:"resource_name"`
	Nodes                   []string                       `json:"nodes"`
	SnapshotDefinitionProps map[string]string              `json:"snapshot_definition_props"`
	ResourceDefinitionProps map[string]string              `json:"resource_definition_props"`
	Props                   map[string]string              `json:"props"`
	Flags                   []string                       `json:"flags"`
	VolumeDefinitions       []snapshotVolumeDefinitionJSON `json:"volume_definitions"`
	UUID                    string                         `json:"uuid"`
	Snapshots               []snapshotNodeJSON             `json:"snapshots"`
}

type snapshotVolumeDefinitionJSON struct {
	VolumeNumber int               `json:"volume_number"`
	SizeKiB      int64             `json:"size_kib"`
	Props        map[string]string `json:"volume_definition_props"`
}

type snapshotNodeJSON struct {
	SnapshotName    string               `json:"snapshot_name"`
	NodeName        string               `json:"node_name"`
	CreateTimestamp int64                `json:"create_timestamp"`
	Flags           []string             `json:"flags"`
	UUID            string               `json:"uuid"`
	SnapshotVolumes []snapshotVolumeJSON `json:"snapshot_volumes"`
}

type snapshotVolumeJSON struct {
	UUID   string            `json:"uuid"`
	Number int               `json:"vlm_nr"`
	Props  map[string]string `json:"props"`
}

type snapshotCreate struct {
	Name         string   `json:"name"`
	ResourceName string   `json:"resource_name"`
	Nodes        []string `json:"nodes"`
}

type snapshotRestore struct {
	ToResource string   `json:"to_resource"`
	Nodes      []string `json:"nodes"`
}

type cloneRequest struct {
	Name          string   `json:"name"`
	ExternalName  string   `json:"external_name"`
	LayerList     []string `json:"layer_list"`
	ResourceGroup string   `json:"resource_group"`
	propsModify
}

type cloneStarted struct {
	Location   string  `json:"location"`
	SourceName string  `json:"source_name"`
	CloneName  string  `json:"clone_name"`
	Messages   []Reply `json:"messages"`
}

type cloneStatus struct {
	Status string `json:"status"`
}

type keyValueJSON struct {
	Name  string            `json:"name"`
	Props map[string]string `json:"props"`
}
